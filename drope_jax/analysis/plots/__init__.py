"""The report's plots: each function returns a matplotlib `Figure`.

Figures stand on white; `canvas.svg` returns them for a web page, where they
take the page's text color and background.
"""
