"""Looking at one picture through a model, click by click: what the live page shows, without the page."""
