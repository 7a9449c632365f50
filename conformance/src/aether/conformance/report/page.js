const form = document.querySelector(".filter");
const words = form.querySelector("input[type=search]");
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
const cases = [...document.querySelectorAll(".cases li")];

function filter() {
  const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  const text = words.value.toLowerCase();
  for (const one of cases) {
    one.hidden = !wanted.has(one.dataset.status) || !one.textContent.toLowerCase().includes(text);
  }
  for (const area of document.querySelectorAll(".area")) {
    area.hidden = !area.querySelector("li:not([hidden])");
  }
  form.querySelector("output").textContent = `${cases.filter((one) => !one.hidden).length} of ${cases.length}`;
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
