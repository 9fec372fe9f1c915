"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const holder = get("queries");
  const articles = [...holder.querySelectorAll("article")];
  const cards = new Map(articles.map((article) => [article, [...article.querySelectorAll(".card")]]));
  const text = new Map();
  for (const article of articles) {
    text.set(article, (article.querySelector("h2").textContent + " " + article.querySelector(".asked").textContent).toLowerCase());
    for (const card of cards.get(article)) text.set(card, card.textContent.toLowerCase());
  }

  const values = new Map();
  const read = (place) => [place.querySelector("dt").textContent, place.querySelector("dd").textContent];
  for (const place of holder.querySelectorAll(".field")) {
    const [field, value] = read(place);
    const of = values.get(field) ?? new Set();
    if (of.size < 200) of.add(value);
    values.set(field, of);
  }
  const option = (value) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = value.length > 60 ? value.slice(0, 60) + "…" : value;
    return made;
  };
  for (const field of values.keys()) get("field").append(option(field));

  const show = () => {
    const wanted = get("search").value.trim().toLowerCase();
    const [field, value] = [get("field").value, get("value").value];
    const has = (card) => !field || [...card.querySelectorAll(".field")].map(read).some(([name, is]) => name === field && is === value);
    let [queries, examples] = [0, 0];
    for (const article of articles) {
      const all = text.get(article).includes(wanted);
      let shown = 0;
      for (const card of cards.get(article)) {
        card.hidden = !(has(card) && (all || text.get(card).includes(wanted)));
        if (!card.hidden) shown += 1;
      }
      article.hidden = shown === 0 && !(all && !field);
      if (!article.hidden) queries += 1;
      examples += shown;
    }
    get("found").textContent = wanted || field ? `${queries} queries, ${examples} examples` : "";
  };
  const order = () => {
    const by = get("order").value;
    const number = (article) => Number(article.dataset[by]);
    const sorted = [...articles].sort((a, b) => by === "number" ? number(a) - number(b) : number(b) - number(a));
    holder.append(...sorted);
  };

  get("search").addEventListener("input", show);
  get("order").addEventListener("change", order);
  get("field").addEventListener("change", () => {
    const field = get("field").value;
    get("value").replaceChildren(...[...(values.get(field) ?? [])].sort().map(option));
    get("value-label").hidden = !field;
    show();
  });
  get("value").addEventListener("change", show);
  get("theme").addEventListener("change", () => {
    document.documentElement.dataset.theme = get("theme").value;
  });
  get("tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  get("tools").hidden = false;
})();
