() => {
    // Gradio calls every place for files the same; screen readers should hear which it is.
    const name = () => {
        for (const button of document.querySelectorAll(".block > button.upload-container, .block > * > button.upload-container")) {
            const label = button.closest(".block").querySelector("[data-testid=block-label]");
            if (label) button.setAttribute("aria-label", label.textContent.trim() + ": choose files, or drop them here");
        }
    };
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();
    // A visit ends with its tab, and what was not downloaded goes with it.
    window.addEventListener("beforeunload", (event) => {
        if (document.querySelector("#examples li, #gallery li")) event.preventDefault();
    });
}
