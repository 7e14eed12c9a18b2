// The help page needs no script: its texts are in the document.

export function start() {}
