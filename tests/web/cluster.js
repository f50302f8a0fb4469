// A `quorate local` of its own for a test file, on free ports, in a folder that goes with it; and a browser to look at its page.

import { spawn } from "node:child_process";
import { mkdtemp, mkdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAM = process.env.QUORATE_BIN ?? join(ROOT, "target/debug/quorate");
export const SCREENSHOTS = join(ROOT, "target/screenshots");

// Far beyond what anything here needs: a test that hangs fails with its name.
export const PATIENCE_MS = 90_000;

// Three times the default: six nodes and a browser share what may be two slow processors, and most tests count on the leader there is.
const ELECTIONS = ["--election-timeout", "1500ms-3s"];

// As many ports in a row, three times, as nodes need; below those that the system gives to outgoing connections.
async function freePorts(count) {
  for (let tries = 0; tries < 100; tries++) {
    const first = 12_000 + Math.floor(Math.random() * 18_000);
    const held = await Promise.allSettled(Array.from({ length: count }, (_, i) => hold(first + i)));
    await Promise.all(held.filter((h) => h.status === "fulfilled").map((h) => new Promise((done) => h.value.close(done))));
    if (held.every((h) => h.status === "fulfilled")) return first;
  }
  throw new Error("no free ports");
}

function hold(port) {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

export async function eventually(what, check) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const why = await check();
    if (why === true) return;
    if (Date.now() > deadline) throw new Error(`${what}: ${why}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export class Local {
  static async start({ nodes = 6, writeQuorum = 4, args = [] } = {}) {
    const local = new Local();
    local.folder = await mkdtemp(join(tmpdir(), "quorate-web-"));
    local.first = await freePorts(3 * nodes);
    const ports = ["--http-port", local.first, "--tcp-port", local.first + nodes, "--peer-port", local.first + 2 * nodes];
    const all = ["local", "--nodes", nodes, "--write-quorum", writeQuorum, ...ports, "--page-port", 0, "--data-dir", local.folder, "--disk-reserve", "1MiB", ...ELECTIONS, ...args];
    // Nothing of the developer's own settings reaches it.
    local.child = spawn(PROGRAM, all.map(String), { env: { PATH: process.env.PATH, HOME: local.folder }, stdio: ["ignore", "pipe", "pipe"] });
    local.text = "";
    local.ended = new Promise((resolve) => local.child.once("close", resolve));
    for (const stream of [local.child.stdout, local.child.stderr]) stream.on("data", (chunk) => (local.text += chunk));
    await eventually("the cluster is up", () => {
      if (local.child.exitCode !== null) throw new Error(`it ended: ${local.text}`);
      return local.text.includes("Ctrl-C stops it") || local.text;
    });
    local.url = /http:\/\/127\.0\.0\.1:\d+\//.exec(local.text)[0];
    return local;
  }

  // Where a node serves, 1 for the first.
  node(n) {
    return `http://127.0.0.1:${this.first + n - 1}/`;
  }

  async stop() {
    this.child.kill("SIGINT");
    const late = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE_MS);
    const code = await this.ended;
    clearTimeout(late);
    await rm(this.folder, { recursive: true, force: true });
    if (code !== 0) throw new Error(`quorate local ended with ${code}: ${this.text}`);
  }
}

// Chromium as the system has it. As root, as in a container, its own sandbox does not work; what it opens here is ours.
export function browser() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

// A page whose every mistake is kept: errors, violations of the policy, requests to anywhere else.
export async function open(chrome, url, options = {}) {
  const context = await chrome.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.mistakes = [];
  page.on("pageerror", (error) => page.mistakes.push(`error: ${error.stack ?? error}`));
  page.on("console", (message) => {
    // Chromium reports every answer that is no success; whether it should have been one is the test's business.
    const text = message.text();
    if (message.type() === "error" && !text.startsWith("Failed to load resource")) page.mistakes.push(`console: ${text}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) page.mistakes.push(`external request: ${request.url()}`);
  });
  if (process.env.QUORATE_UI) await fromDisk(page, process.env.QUORATE_UI);
  const response = await page.goto(url);
  page.policy = response.headers()["content-security-policy"];
  return page;
}

// While the page is worked on: its files as they are now, under the policy of the program.
async function fromDisk(page, folder) {
  await page.route(/\/ui\/[a-z.]+$/, async (route) => {
    const file = join(folder, new URL(route.request().url()).pathname.slice("/ui/".length));
    await route.fulfill({ body: await readFile(file), contentType: { js: "text/javascript", css: "text/css", svg: "image/svg+xml" }[file.split(".").pop()] });
  });
  await page.route(/:\d+\/$/, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: await readFile(join(folder, "index.html")) });
  });
}

export async function screenshot(page, name, options = { fullPage: true }) {
  await mkdir(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), ...options });
}
