"""The page at /, on which people try the server out: index.html, page.css and page.js, with no build step."""
