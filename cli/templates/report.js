"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const holder = get("queries");
  const articles = [...holder.querySelectorAll("article")];
  // whatever reads the whole page waits until it is asked for: opening it must not
  const cardsOf = new Map();
  const cards = (article) => {
    if (!cardsOf.has(article)) cardsOf.set(article, [...article.querySelectorAll(".card")]);
    return cardsOf.get(article);
  };
  const texts = new Map();
  const has = (place, wanted) => {
    if (!texts.has(place)) {
      const parts = place.matches("article") ? [place.querySelector("h2"), place.querySelector(".asked")] : [place];
      texts.set(place, parts.map((part) => part.textContent).join(" ").toLowerCase());
    }
    return texts.get(place).includes(wanted);
  };

  const values = new Map();
  const read = (place) => [place.querySelector("dt").textContent, place.querySelector("dd").textContent];
  const option = (value) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = value.length > 60 ? value.slice(0, 60) + "…" : value;
    return made;
  };
  const fields = () => {
    for (const place of holder.querySelectorAll(".field")) {
      const [field, value] = read(place);
      const of = values.get(field) ?? new Set();
      if (of.size < 200) of.add(value);
      values.set(field, of);
    }
    for (const field of values.keys()) get("field").append(option(field));
  };
  setTimeout(fields);

  const show = () => {
    const wanted = get("search").value.trim().toLowerCase();
    const [field, value] = [get("field").value, get("value").value];
    const fits = (card) => !field || [...card.querySelectorAll(".field")].map(read).some(([name, is]) => name === field && is === value);
    let [queries, examples] = [0, 0];
    for (const article of articles) {
      const all = has(article, wanted);
      let shown = 0;
      for (const card of cards(article)) {
        card.hidden = !(fits(card) && (all || has(card, wanted)));
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
