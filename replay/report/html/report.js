const rows = Array.from(document.querySelectorAll("table.captures tbody tr"));
const filter = document.getElementById("filter");
const only = document.getElementById("only");
document.querySelector(".filters").hidden = false;
function apply() {
  const wanted = filter.value.toLowerCase();
  const rest = document.querySelector("details.rest");
  if (rest) { rest.open = only.checked ? false : wanted !== ""; }
  rows.forEach(function (row) {
    const there = row.textContent.toLowerCase().includes(wanted);
    const asked = only.checked ? row.classList.contains("bad") : true;
    row.hidden = !(there ? asked : false);
  });
}
function unfold() {
  let place = document.getElementById(location.hash.slice(1));
  while (place) {
    if (place.tagName === "DETAILS") { place.open = true; }
    place = place.parentElement;
  }
  if (location.hash) { document.getElementById(location.hash.slice(1))?.scrollIntoView(); }
}
filter.addEventListener("input", apply);
only.addEventListener("change", apply);
window.addEventListener("hashchange", unfold);
unfold();
