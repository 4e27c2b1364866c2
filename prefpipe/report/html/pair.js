// Two runs side by side: tables alone, so nothing is drawn; dark on light on paper.
const applyTheme = startTheme(() => {});
function usePaper(isPaper) {
  onPaper = isPaper;
  document.documentElement.classList.toggle("paper", isPaper);
  applyTheme();
}
window.addEventListener("beforeprint", () => usePaper(true));
window.addEventListener("afterprint", () => usePaper(false));
