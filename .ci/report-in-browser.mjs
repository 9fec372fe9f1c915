// Checks reports as a person meets them: their structure, by keyboard alone, with JavaScript off, and by axe-core.
// node report-in-browser.mjs FOLDER_OF_PACKAGES BROWSER PAGE...
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, executablePath, ...pages] = process.argv.slice(2);
const require = createRequire(join(packages, "node_modules", "here.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// What axe-core calls serious; anything less is printed.
const SERIOUS = ["serious", "critical"];

// Steps of the Tab key after which a page counts as a trap.
const MOST_STEPS = 2000;

const FOCUSABLE = "a[href], input, select, summary, [tabindex='0']";

// A page in a context of its own, which may make no request but for itself and say nothing on the console.
async function open(browser, address, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("request", (request) => {
    if (request.url().split("#")[0] !== address && !request.url().startsWith("data:")) said.push(`asks for ${request.url()}`);
  });
  await page.goto(address);
  return { context, page, said };
}

// What a page is made of, in the order in which it is read.
const structure = (page) => page.evaluate(() => {
  const all = (of, selector) => [...of.querySelectorAll(selector)];
  const text = (of) => of?.textContent.replace(/\s+/g, " ").trim() ?? "";
  return {
    titles: all(document, "h1, main > div h2").map(text),
    words: all(document, ".words dt").map(text),
    reasons: all(document, ".distrust li").length,
    queries: all(document, "article").map((article) => ({
      asked: text(article.querySelector(".asked")),
      sentence: text(article.querySelector(".sentence")),
      sides: all(article, ".sides h3").map((title) => text(title).slice(0, 8)),
      cards: all(article, ".card").map((card) => ({
        score: text(card.querySelector(".score")),
        id: text(card.querySelector(".id")),
        text: text(card.querySelector(".text")) || text(card.querySelector("summary")) || card.querySelector("img")?.alt,
        bar: card.querySelectorAll(".bar rect").length,
      })),
      // every colour of a cell or a word has a number beside it or in its title
      bare: all(article, "td.p1, td.p2, td.p3, td.p4, td.n1, td.n2, td.n3, td.n4").filter((cell) => text(cell) === "").length
        + all(article, ".shaded span[class^='p'], .shaded span[class^='n'], .shaded span[class^='l']")
          .filter((word) => /^[pnl][1-4]$/.test(word.className) && !word.title).length,
    })),
    tools: !document.getElementById("tools").hidden,
  };
});

function assertWhole(found, name) {
  assert.deepEqual(found.titles.slice(0, 3), ["Which training examples moved the model?", "What was asked", "What to distrust in this run"], name);
  assert.ok(found.words.length > 0 && found.reasons > 0 && found.queries.length > 0, name);
  for (const query of found.queries) {
    assert.ok(query.asked && query.sentence.includes("helped most"), `${name}: ${query.sentence}`);
    assert.deepEqual(query.sides, ["▲ Helped", "▼ Hurt p"], name);
    assert.equal(query.bare, 0, `${name}: a colour without a number`);
    assert.ok(query.cards.length > 0, name);
    for (const card of query.cards) {
      assert.match(card.score, /^[+-]\d/, name);
      assert.ok(card.id && card.text && card.bar === 1, `${name}: ${JSON.stringify(card)}`);
    }
  }
}

// Serious findings of axe-core.
async function serious(page, name) {
  // not as a script of the page, whose policy allows none
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const found of violations) {
    console.log(`${name}: axe-core: ${found.impact}: ${found.id}: ${found.help} (${found.nodes.length}, first ${found.nodes[0].html.slice(0, 160)})`);
  }
  return violations.filter((found) => SERIOUS.includes(found.impact)).length;
}

// Which element has the keyboard, as its place among those that can have it; -1 if none of them.
const place = (page) => page.evaluate((selector) => [...document.querySelectorAll(selector)].indexOf(document.activeElement), FOCUSABLE);

// Presses Tab until the element has the keyboard.
async function tabTo(page, selector) {
  for (let step = 0; step < MOST_STEPS; step += 1) {
    if (await page.evaluate((of) => document.activeElement?.matches(of), selector)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${selector} cannot be reached by Tab`);
}

async function byKeyboard(page, name) {
  // the first stop leads past what comes before the queries
  await page.keyboard.press("Tab");
  assert.ok(await page.evaluate(() => document.activeElement.matches(".skip")), `${name}: the first stop`);
  await page.keyboard.press("Enter");
  assert.equal(new URL(page.url()).hash, "#queries", name);
  await page.evaluate(() => { location.hash = ""; document.activeElement.blur(); scrollTo(0, 0); });
  await page.reload();

  // every stop is reached, in the order of the page, and is seen to have the keyboard
  const stops = await page.evaluate((selector) => [...document.querySelectorAll(selector)].map((of) => of.checkVisibility()), FOCUSABLE);
  const wanted = stops.flatMap((isSeen, index) => (isSeen ? [index] : []));
  const met = [];
  while (met.length <= wanted.length) {
    await page.keyboard.press("Tab");
    const at = await place(page);
    if (at < 0) break;
    met.push(at);
    const isMarked = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return style.outlineStyle !== "none" || style.textDecorationLine !== "none";
    });
    assert.ok(isMarked, `${name}: stop ${at} is not seen to have the keyboard`);
  }
  assert.deepEqual(met, wanted, `${name}: stops of the Tab key`);

  // what is folded opens and closes
  await tabTo(page, ".words > summary");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.querySelector(".words").open), false, name);
  await page.keyboard.press("Space");
  assert.equal(await page.evaluate(() => document.querySelector(".words").open), true, name);

  // search, order and filter
  const last = page.locator("article").last();
  const id = (await last.locator(".id").first().textContent()).trim();
  await tabTo(page, "#search");
  await page.keyboard.type(id);
  const seen = () => page.evaluate(() => [...document.querySelectorAll(".card")].filter((card) => card.checkVisibility()).map((card) => card.textContent));
  const hits = await seen();
  assert.ok(hits.length > 0 && hits.every((text) => text.toLowerCase().includes(id.toLowerCase())), `${name}: search for ${id}`);
  assert.match(await page.locator("#found").textContent(), /^\d+ queries, \d+ examples$/, name);
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await tabTo(page, "#order");
  await page.keyboard.press("ArrowDown");
  const scores = await page.evaluate(() => [...document.querySelectorAll("article")].map((article) => Number(article.dataset.score)));
  assert.deepEqual(scores, [...scores].sort((a, b) => b - a), `${name}: strongest first`);
  await tabTo(page, "#field");
  await page.keyboard.press("ArrowDown");
  const value = await page.locator("#value").inputValue();
  const filtered = await seen();
  assert.ok(value && filtered.length > 0 && filtered.every((text) => text.includes(value)), `${name}: filter by ${value}`);
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
try {
  for (const file of pages) {
    const [name, address] = [file.split("/").slice(-2).join("/"), pathToFileURL(file).href];
    let found = 0;
    for (const colorScheme of ["light", "dark"]) {
      const { context, page, said } = await open(browser, address, { colorScheme });
      // folded parts are there for everybody
      await page.evaluate(() => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
      found += await serious(page, `${name}, ${colorScheme}`);
      assert.deepEqual(said, [], name);
      await context.close();
    }
    assert.equal(found, 0, `${name}: axe-core finds something serious`);

    const on = await open(browser, address, {});
    const withScript = await structure(on.page);
    assertWhole(withScript, name);
    assert.ok(withScript.tools, `${name}: no tools`);
    await byKeyboard(on.page, name);
    assert.deepEqual(on.said, [], name);
    await on.context.close();

    const off = await open(browser, address, { javaScriptEnabled: false });
    assert.ok(!(await off.page.locator("#tools").isVisible()), `${name}: tools without JavaScript`);
    assert.deepEqual(await off.page.locator(".card .id").allTextContents(), withScript.queries.flatMap((query) => query.cards.map((card) => card.id)), name);
    const words = off.page.locator(".words dt").first();
    assert.ok(await words.isVisible(), name);
    await off.page.locator(".words > summary").focus();
    await off.page.keyboard.press("Enter");
    assert.ok(!(await words.isVisible()), `${name}: what is folded needs JavaScript`);
    // a phone: nothing is wider than the page
    await off.page.setViewportSize({ width: 360, height: 740 });
    const root = await off.page.locator("body").boundingBox();
    assert.ok(root.width <= 360, `${name}: ${root.width} wide on a phone`);
    await off.context.close();
    console.log(`${name}: ${withScript.queries.length} queries by keyboard, without JavaScript and by axe-core`);
  }
} finally {
  await browser.close();
}
