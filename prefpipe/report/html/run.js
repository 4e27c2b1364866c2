// The page of a run: its selections, the map, the calculator and the lineage.

function showPool(number) {
  for (const panel of document.querySelectorAll(".pool"))
    panel.hidden = panel.dataset.pool !== String(number);
}

showPool(0);
const pool = document.getElementById("pool");
if (pool) pool.addEventListener("change", () => showPool(pool.value));
redrawn.push(startMap(story, draw), startSavings(story, draw));

// A link to an artifact opens it.
function openTarget() {
  const target =
    location.hash.startsWith("#artifact-") && document.getElementById(location.hash.slice(1));
  if (target) target.querySelector("details").open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();
