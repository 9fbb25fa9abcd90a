package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
)

//go:embed assets/style.css assets/app.js assets/icon.svg
var assetFiles embed.FS

//go:embed page.html
var pageFile embed.FS

// asset is a file that the page refers to.
type asset struct {
	mediaType, etag string
	content         []byte
}

// assets reads the files by the path under which they are served.
func assets() map[string]asset {
	all := map[string]asset{}
	for name, mediaType := range map[string]string{
		"style.css": "text/css; charset=utf-8",
		"app.js":    "text/javascript; charset=utf-8",
		"icon.svg":  "image/svg+xml",
	} {
		content, err := assetFiles.ReadFile("assets/" + name)
		if err != nil {
			panic(fmt.Errorf("reading an embedded file: %w", err)) // it is not without it
		}
		sum := sha256.Sum256(content)
		all["/assets/"+name] = asset{mediaType, `"` + hex.EncodeToString(sum[:16]) + `"`, content}
	}
	return all
}

// serve answers with the file, or with 304 to who has it (RFC 9110, section 13.1.2). It is
// asked for each time, so that a new version of the module is seen at once.
func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("ETag", a.etag)
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", a.mediaType)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(a.content)))
	if r.Method != http.MethodHead {
		w.Write(a.content)
	}
}
