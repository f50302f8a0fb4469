// Makes the README's picture: a minute of writes and reads, then the leader is stopped. `make pictures` puts it in its place.

import { Local, browser, eventually, open, screenshot } from "./cluster.js";

// Requests a second by each of so many clients, long enough to fill half of the plots.
const [CLIENTS, PAUSE_MS, SECONDS] = [4, 60, 70];

const local = await Local.start();
const chrome = await browser();
let over = false;

async function client(c) {
  for (let i = 0; !over; i++) {
    const url = `${local.node(2 + ((c + i) % 5))}v1/kv/user%3A${c}${i % 10}`;
    // While nobody leads some are refused: that is what the picture is of.
    await fetch(url, i % 3 ? { method: "PUT", body: `value ${i}` } : {}).then((r) => r.arrayBuffer(), () => null);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

try {
  const page = await open(chrome, local.url, { deviceScaleFactor: 1.5 });
  const clients = Array.from({ length: CLIENTS }, (_, c) => client(c));
  await page.waitForTimeout((SECONDS - 12) * 1000);
  await page.click("#steady");
  await page.waitForTimeout(6000);
  await page.getByRole("button", { name: "Stop node1", exact: true }).click();
  await eventually("another leads", async () => /^node[2-6] leads/.test(await page.textContent("#leader")) || "not yet");
  await page.waitForTimeout(6000);
  over = true;
  await Promise.all(clients);
  const { y, height } = await page.locator(".charts").boundingBox();
  await page.setViewportSize({ width: 1280, height: Math.ceil(y + height + 24) });
  await page.mouse.move(0, 0);
  await screenshot(page, "readme", {});
} finally {
  over = true;
  await chrome.close();
  await local.stop();
}
