// The page of one node: the whole cluster seen from there, without the controls of `quorate local`, with an admin token.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Local, browser, eventually, open, screenshot } from "./cluster.js";

let local;
let chrome;
let page;

before(async () => {
  [local, chrome] = await Promise.all([Local.start({ nodes: 3, writeQuorum: 2, args: ["--admin-token", "open sesame"] }), browser()]);
  page = await open(chrome, local.node(2));
});

after(async () => {
  await chrome?.close();
  await local?.stop();
});

const text = (id, of = page) => of.textContent(`#${id}`);
const shows = (id, pattern, of = page) => eventually(`#${id} shows ${pattern}`, async () => pattern.test(await text(id, of)) || (await text(id, of)));
const button = (name, of = page) => of.getByRole("button", { name, exact: true });

describe("the page of a node", { concurrency: false }, () => {
  test("shows every member, also from a follower", async () => {
    await shows("place", /^node2$/);
    await shows("leader", /^node1 leads/);
    await shows("quorum", /^2 of 3 copies must hold a write; 1 more failure is survived\.$/);
    await eventually("three healthy members", async () => {
      const words = await page.locator("#member-rows tr").allTextContents();
      return (words.length === 3 && words.every((w) => w.includes("healthy"))) || words.join();
    });
    for (const name of ["Stop node1", "Pause node1", "Change W", "Change delays"]) assert.ok(!(await button(name).isVisible()), `${name} is for local alone`);
  });

  test("reads from another member, through this one", async () => {
    await button("Write").click();
    await shows("one-result", /^Written: [23] copies hold it/);
    await page.locator("#read-node").selectOption("node3");
    await button("Read").click();
    await shows("one-result", /^Read from node3, confirmed by the cluster/);
    assert.equal(await text("one-value"), "world");
  });

  test("hands leadership over only with the token", async () => {
    await page.getByLabel("Hand it to").selectOption("node3");
    await button("Hand over").click();
    await shows("transfer-result", /needs the admin token.*Enter it under “Admin token”/);
    await page.locator("#token").fill("wrong");
    await button("Hand over").click();
    await shows("transfer-result", /is not the one this node was started with/);
    await page.locator("#token").fill("open sesame");
    await button("Hand over").click();
    await shows("transfer-result", /^node3 leads/);
    await shows("log", /node3 leads now/);
    await screenshot(page, "node");
  });

  test("on the cluster's page, too, nothing is stopped without the token", async () => {
    const other = await open(chrome, local.url);
    await shows("leader", /leads/, other);
    await button("Stop node2", other).click();
    await shows("member-result", /needs the admin token/, other);
    await other.locator("#token").fill("open sesame");
    await button("Stop node2", other).click();
    await shows("member-result", /^node2 is stopping/, other);
    assert.deepEqual(other.mistakes, []);
    // The page that came from the stopped node says that it is outdated, and finds back by itself.
    await shows("link-text", /connection is lost/);
    await eventually("it is stopped", async () => (await button("Start node2", other).isVisible()) || "not yet");
    await button("Start node2", other).click();
    await shows("link-text", /^live$/);
    await eventually("node2 is well again", async () => {
      const row = await page.locator("#member-rows tr", { hasText: "node2" }).textContent();
      return row.includes("healthy") || row;
    });
  });

  test("a cluster whose every node was stopped from the page is started again from it", async () => {
    const other = await open(chrome, local.url);
    await other.locator("#token").fill("open sesame");
    await shows("leader", /leads/, other);
    for (const n of [1, 2, 3]) await button(`Stop node${n}`, other).click();
    await shows("leader", /^No node is running$/, other);
    for (const n of [1, 2, 3]) await button(`Start node${n}`, other).click();
    await shows("leader", /leads/, other);
    await button("Read", other).click();
    await shows("one-result", /^Read from node\d, confirmed by the cluster/, other);
    assert.equal(await text("one-value", other), "world");
    assert.deepEqual(other.mistakes, []);
  });

  test("made no mistake", () => assert.deepEqual(page.mistakes, []));
});
