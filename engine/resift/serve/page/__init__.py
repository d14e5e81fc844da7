"""The page at /, on which people try out the server: index.html, page.css and page.js, with no build step."""
