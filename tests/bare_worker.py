"""A decoding process on a kernel without Landlock."""

from roadwork_serve.media import decode_worker as reader

if __name__ == "__main__":
    reader.confine = lambda: ["Landlock"]
    reader.main()
