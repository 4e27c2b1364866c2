// The colours of a page: as the system has them, or as chosen.
"use strict";

let onPaper = false;

function startTheme(redraw) {
  const buttons = document.querySelectorAll("[data-theme-choice]");
  const wish = matchMedia("(prefers-color-scheme: dark)");
  let choice = "auto";
  try {
    choice = localStorage.getItem("prefpipe-theme") || "auto";
  } catch {
    /* a page of a file may have no storage: the choice lasts as long as the page */
  }
  const apply = () => {
    let theme = choice;
    if (choice === "auto") theme = wish.matches ? "dark" : "light";
    document.documentElement.dataset.theme = onPaper ? "light" : theme;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.themeChoice === choice));
    }
    redraw();
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      choice = button.dataset.themeChoice;
      try {
        localStorage.setItem("prefpipe-theme", choice);
      } catch {
        /* as above */
      }
      apply();
    });
  }
  wish.addEventListener("change", apply);
  apply();
  return apply;
}
