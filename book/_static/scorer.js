// What the search shows first: a chapter with the words in its own title, then an entry of the index, which is what
// {find} makes of a symbol's name, then pages with the words in a heading or in the text, then objects of the API.
var Scorer = {
  score: ([page, title, , , score]) => {
    const words = (new URLSearchParams(window.location.search).get("q") ?? "").trim().toLowerCase();
    const own = title.split(" > ")[0].toLowerCase();
    const chapter = page.startsWith("book/") && !page.startsWith("book/api/");
    return score + (chapter && words && own.includes(words) ? 200 : 0);
  },
  objNameMatch: 7,
  objPartialMatch: 3,
  objPrio: { 0: 4, 1: 2, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
