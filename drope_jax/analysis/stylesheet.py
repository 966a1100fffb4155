"""The style sheet of the report page, for light and dark mode."""

CSS = """\
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #5b6570;
  --line: #dfe3e8; --accent: #d55e00; --other: #1f77c0;
  --good: #00795a; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111418; --card: #191d23; --ink: #e6e9ed; --soft: #9aa4af;
    --line: #2c333c; --accent: #ff9147; --other: #56b4e9;
    --good: #3fcf9f; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 860px; margin: 0 auto; padding: 40px 20px 72px; }
section + section { margin-top: 48px; }
h1 {
  margin: 0 0 12px; font-size: 1.9rem; line-height: 1.2;
  text-wrap: balance;
}
h2 { margin: 0 0 12px; font-size: 1.25rem; }
p { margin: 0 0 14px; max-width: 70ch; }
small { color: var(--soft); font-size: .8125rem; }
figure, .facts, .verdicts, blockquote, pre { margin: 16px 0; padding: 0; }
figure, .facts > div, blockquote, details, .verdicts {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
figure { padding: 16px; }
figcaption {
  margin-top: 10px; color: var(--soft); font-size: .9rem; max-width: 75ch;
}
.scroll { overflow-x: auto; }
.plot svg {
  display: block; width: 100%; height: auto;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
.narrow { display: none; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 20px; }
.controls label { display: flex; align-items: center; gap: 8px; }
.controls select { font: inherit; font-size: .9rem; }
.controls output { min-width: 9.5em; }
.top { margin-top: 12px; color: var(--soft); font-size: .8125rem; }
.bars {
  display: block; width: 100%; height: 220px; fill: var(--accent);
  border: 1px solid var(--line); border-width: 1px 0;
}
.bars .value { fill: var(--other); }
.ticks { display: flex; color: var(--soft); font-size: .8125rem; }
.ticks span { flex: 1 0 0; width: 0; display: flex; justify-content: center; }
.found { margin-top: 10px; min-height: 3.1em; }
table {
  width: 100%; border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums;
}
th, td {
  padding: 6px 7px; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
th { color: var(--soft); font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: color-mix(in srgb, var(--line) 35%, transparent); }
td.words { white-space: normal; min-width: 11rem; }
td small { display: block; line-height: 1.3; }
.n { text-align: right; }
.facts { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); }
.facts > div { padding: 14px 16px; display: flex; flex-direction: column; }
.facts span { font-size: .9rem; line-height: 1.35; margin-bottom: 4px; }
.facts b { font-size: 1.65rem; line-height: 1.3; letter-spacing: -.01em; }
.verdicts { list-style: none; padding: 4px 16px; }
.verdicts li { padding: 12px 0; }
.verdicts li + li { border-top: 1px solid var(--line); }
.models { display: grid; gap: 4px 16px; margin-top: 4px; font-size: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.models b { color: var(--soft); }
.models .shown b { color: var(--good); }
.models .not-shown b { color: var(--bad); }
.models small { display: block; }
blockquote {
  padding: 14px 18px; border-left: 3px solid var(--accent);
  white-space: pre-wrap; overflow-wrap: anywhere;
}
cite {
  display: block; margin-top: 8px; color: var(--soft); font-size: .85rem;
  font-style: normal;
}
pre {
  padding: 12px 14px; overflow-x: auto; font-size: .82rem; line-height: 1.45;
  background: color-mix(in srgb, var(--line) 35%, transparent);
  border-radius: 8px;
}
details { margin: 12px 0; padding: 0 16px; }
details > summary { padding: 12px 0; cursor: pointer; font-weight: 600; }
details figure { padding: 0; border: 0; }
details .scroll { max-height: 22rem; overflow: auto; }
details td:last-child:not(.n) { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 620px) {
  main { padding: 24px 12px 48px; }
  figure { padding: 10px; }
  .wide { display: none; }
  .narrow { display: block; }
  .ticks .few { font-size: 0; }
  .controls label { flex-basis: 100%; }
  .controls input { flex: 1; min-width: 0; }
  .bars { height: 180px; }
  .found { min-height: 6.2em; }
  th, td { padding: 5px 3px; font-size: .8rem; }
  td.words { min-width: 8rem; }
  td small { font-size: .66rem; white-space: normal; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --accent: #d55e00; --other: #1f77c0; --good: #00795a; --bad: #b3261e;
  }
  body { font-size: 11pt; }
  main { padding: 0; }
  section + section { margin-top: 24px; }
  details:not([open]), .controls { display: none; }
  section:not(:has(> :not(h2, details:not([open])))) { display: none; }
  figure, .facts > div, .verdicts li { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
