/**
 * Search in a site that is opened from files. Browsers start no worker from a `file:` address, so its script runs in a hidden frame.
 */

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    /** @param {string | URL} url */
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const { contentWindow: scope, contentDocument: page } = frame;
      // What the script posts is a message of this worker.
      scope.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      const script = page.createElement("script");
      this.loaded = new Promise((resolve) => script.addEventListener("load", resolve));
      script.src = String(new URL(url, location.href));
      page.head.append(script);
      this.frame = frame;
    }

    /** @param {unknown} data */
    postMessage(data) {
      this.loaded.then(() => {
        const scope = this.frame.contentWindow;
        scope.dispatchEvent(new scope.MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
