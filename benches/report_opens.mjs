// How long Chromium takes to show and to load reports, in milliseconds since it was asked for the page, five times each:
//
//     npm install --prefix WORK --ignore-scripts playwright-core@1.65.1
//     node benches/report_opens.mjs WORK /usr/bin/chromium RUN/report.html ...
//
// `shown` is the first paint with content, `loaded` the end of the load event, behind which nothing is left to do.
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [work, executablePath, ...pages] = process.argv.slice(2);
const { chromium } = createRequire(resolve(work, 'package.json'))('playwright-core');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
for (const file of pages) {
  const shown = [];
  const loaded = [];
  for (let repeat = 0; repeat < 5; repeat += 1) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    await page.goto(`file://${resolve(file)}`, { waitUntil: 'load' });
    await page.waitForTimeout(300);
    const [first, end] = await page.evaluate(() => [
      performance.getEntriesByName('first-contentful-paint')[0].startTime,
      performance.getEntriesByType('navigation')[0].loadEventEnd,
    ]);
    shown.push(Math.round(first));
    loaded.push(Math.round(end));
    await page.close();
  }
  console.log(`${file}: shown ${shown.sort((a, b) => a - b).join(' ')}, loaded ${loaded.sort((a, b) => a - b).join(' ')}`);
}
await browser.close();
