"use strict";

// Drawn in the page's own colours, and again when the system goes from light to dark or back.
const figures = JSON.parse(document.getElementById("drawings").textContent);

function template() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, panel] = ["--ink", "--line", "--panel"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
  const layout = {
    font: { color: ink, family: "system-ui, sans-serif" },
    paper_bgcolor: panel,
    plot_bgcolor: panel,
    hoverlabel: { bgcolor: panel, bordercolor: line, font: { color: ink } },
    margin: { l: 70, r: 30, t: 30, b: 60 },
    xaxis: { ...axis, automargin: true },
    yaxis: { ...axis, automargin: true },
    scene: { xaxis: axis, yaxis: axis, zaxis: axis },
  };
  return { layout };
}

function draw() {
  // plotly offers to send a figure to its makers.
  const config = { responsive: true, displaylogo: false, showSendToCloud: false };
  for (const [name, figure] of Object.entries(figures)) {
    Plotly.react(`figure-${name}`, figure.data, { ...figure.layout, template: template() }, config);
  }
}

function value(row, column) {
  const cell = row.cells[column];
  if (!cell.classList.contains("number")) return cell.textContent;
  return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
}

// What is not there comes last, whichever way the rest is sorted.
function compare(one, other, sign) {
  const missing = (each) => each === "" || Number.isNaN(each);
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  if (typeof one !== typeof other) return sign * (typeof one === "number" ? -1 : 1);
  return sign * (typeof one === "number" ? Math.sign(one - other) || 0 : one.localeCompare(other));
}

function sort(table, header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const keyed = [...table.tBodies[0].rows].map((row) => [value(row, header.cellIndex), row]);
  keyed.sort(([one], [other]) => compare(one, other, ascending ? 1 : -1));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, header));
    header.replaceChildren(button);
  }
}

function makeSearchable(table) {
  const input = document.createElement("input");
  Object.assign(input, { type: "search", placeholder: "only trials with …" });
  input.setAttribute("aria-label", "only trials with this text");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  table.parentElement.before(input);
}

document.querySelectorAll(".scroll table").forEach(makeSortable);
document.querySelectorAll("#trials table").forEach(makeSearchable);
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
