// A run file may be dropped anywhere on the page: the open tab takes it, or Streaming where the open one shows no runs.
const taker = () => [...document.querySelectorAll(".vn-drop")].find((box) => box.offsetParent)
  ?.querySelector("input[type=file]");
const isFile = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file");

async function give(file) {
  if (!taker()) {
    [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === "Streaming")?.click();
    for (let n = 0; n < 60 && !taker(); n++) await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const input = taker();
  if (!input) return;
  const files = new DataTransfer();
  files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

document.addEventListener("dragover", (event) => { if (isFile(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  const file = event.dataTransfer?.files[0];
  if (!file || event.defaultPrevented || event.target.closest(".vn-drop")) return;
  event.preventDefault(); // otherwise the browser would leave the page for the file
  const isRun = file.name.toLowerCase().endsWith(".zip");
  find("dropped").hidden = isRun;
  find("dropped").querySelector("span").textContent = isRun ? ""
    : `${file.name} is no run file. Drop a ZIP that a page such as this one has exported.`;
  if (isRun) give(file);
});
