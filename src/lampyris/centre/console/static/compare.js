// Two images of one slice under an edge that is moved; another slice or window loads both anew.
"use strict";
document.querySelectorAll(".compare").forEach((compare) => {
  const stage = compare.querySelector(".stage");
  const [before, after] = [compare.querySelector(".before"), compare.querySelector(".after")];
  const [divide, slice] = [compare.querySelector(".divide"), compare.querySelector(".slice")];
  const output = compare.querySelector("output");

  const move = () => compare.style.setProperty("--edge", `${divide.value}%`);
  divide.addEventListener("input", move);
  move();

  let due;
  const load = () => {
    const window_ = compare.querySelector("input[name=window]:checked").value;
    const place = `${window_}.png?slice=${slice.value}`;
    stage.classList.add("waits");
    after.src = `${compare.dataset.after}${place}`;
    before.src = `${compare.dataset.before}${place}&like=${compare.dataset.like}`;
    Promise.allSettled([before.decode(), after.decode()]).then(() => stage.classList.remove("waits"));
  };
  compare.querySelector(".controls").addEventListener("input", (event) => {
    output.textContent = Number(slice.value) + 1;
    clearTimeout(due);
    due = setTimeout(load, event.target === slice ? 80 : 0);
  });
  compare.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
});
