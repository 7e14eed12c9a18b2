// One server and three miners that share it, under PM2: pm2 start ops/ecosystem.config.js
// docs/miner-setup.md goes through all of it. What these variables do not say stands in ops/miner.yaml.
//
//   ROADWORK_WALLET        name of the wallet                                   default
//   ROADWORK_HOTKEYS       its hotkeys, one a miner                             miner-1,miner-2,miner-3
//   ROADWORK_FIRST_PORT    the first miner listens there, the others above      8091
//   ROADWORK_SERVE_CONFIG  another configuration of the server                  serve_config.yaml
//   ROADWORK_LOGS          folder for logs                                      build/logs
//   ROADWORK_STATE         folder for the journal, and for what miners keep     ~/.local/state/roadwork-serve

const os = require("os");
const path = require("path");

const root = path.resolve(__dirname, "..");
const told = (name, otherwise) => process.env[name] || otherwise;
const folder = (name, otherwise) => path.resolve(root, told(name, otherwise));
const state = process.env.ROADWORK_STATE ? folder("ROADWORK_STATE")
  : path.join(process.env.XDG_STATE_HOME || path.join(os.homedir(), ".local/state"), "roadwork-serve");
const bin = (name) => path.join(root, ".venv/bin", name);
const firstPort = Number(told("ROADWORK_FIRST_PORT", "8091"));
const hotkeys = told("ROADWORK_HOTKEYS", "miner-1,miner-2,miner-3").split(",");

const kept = (name) => ({
  name,
  cwd: root,
  interpreter: "none",
  autorestart: true,
  exp_backoff_restart_delay: 500, // milliseconds before the second try, growing to 15 s
  max_restarts: 1e9, // whatever is wrong at night, it is tried again
  merge_logs: true,
  out_file: path.join(folder("ROADWORK_LOGS", "build/logs"), `${name}.log`),
  error_file: path.join(folder("ROADWORK_LOGS", "build/logs"), `${name}.log`),
});

module.exports = {
  apps: [
    {
      ...kept("roadwork-serve"),
      script: bin("roadwork"),
      args: ["serve", "--config", folder("ROADWORK_SERVE_CONFIG", "serve_config.yaml")],
      treekill: false, // Serve stops its own processes, in order
      kill_timeout: 60000,
    },
    ...hotkeys.map((hotkey, number) => ({
      ...kept(`roadwork-${hotkey}`),
      script: bin("python"),
      args: ["miner.py", "--config", "ops/miner.yaml"],
      kill_timeout: 15000, // calls in work are finished first
      env: {
        ROADWORK_MINER_WALLET: `${told("ROADWORK_WALLET", "default")}/${hotkey}`,
        ROADWORK_MINER_PORT: String(firstPort + number),
        ROADWORK_MINER_METRICS_PORT: String(firstPort + 1000 + number),
        ROADWORK_MINER_STATE: path.join(state, "miner", hotkey),
      },
    })),
  ],
};
