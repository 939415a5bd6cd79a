// What the search shows first: a page with the words in its title, then an entry of the index, then an object of the API.
var Scorer = {
  objNameMatch: 7,
  objPartialMatch: 3,
  objPrio: { 0: 4, 1: 2, 2: -5 },
  objPrioDefault: 0,
  title: 100,
  partialTitle: 50,
  term: 5,
  partialTerm: 2,
};
