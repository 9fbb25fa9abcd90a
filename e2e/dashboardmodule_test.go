package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"registry-module/e2e/browser"
	"registry-module/e2e/lab"
)

// dashboardOfTheModule looks at the dashboard of the real binary, while it is used.
func dashboardOfTheModule(t *testing.T, b *browser.Browser) {
	small, large := noise(t, "dash/small", 1<<20), noise(t, "dash/large", 24<<20)
	up := origin(t, lab.OriginOptions{Link: &lab.Link{Rate: 4e6}}, small, large)
	file := filepath.Join(tempDir(t), "token")
	ok(t, os.WriteFile(file, []byte(operatorToken+"\n"), 0o600))
	m := module(t, up.Env(), lab.Env{"REGISTRY_ADMIN_TOKENFILE": file})
	page := scripted(t, b, "http://"+m.Admin)
	js[any](t, page, `window.same = true`)

	pull := func(img lab.Image) {
		urls := []string{manifestURL(m, img.Repo, img.Tag)}
		for _, blob := range img.Blobs {
			urls = append(urls, blobURL(m, img.Repo, blob.Digest))
		}
		for _, url := range urls {
			if a := get(t, url); a.Status != http.StatusOK {
				t.Errorf("%s: status %d", url, a.Status)
			}
		}
	}
	name := small.Repo + ":" + small.Tag
	row := fmt.Sprintf(`#list tr:has([value=%q]) `, name)
	pull(small)
	ok(t, page.Until(fmt.Sprintf(`document.querySelector(%q)?.textContent.includes('linux/amd64')`, row)))
	ok(t, page.Until(`document.querySelector('[data-t="tiles.images"]').textContent === '1'`))
	pull(small)
	ok(t, page.Until(`/^[0-9.]+ .iB$/.test(document.querySelector('[data-t="tiles.saved"]').textContent)`))

	ok(t, page.Click(`#token`))
	ok(t, page.Keys(operatorToken+"\r"))
	ok(t, page.Click(row+`[formaction="actions/pin"]`))
	ok(t, page.Until(fmt.Sprintf(`document.querySelector(%q).textContent.includes('by the operator')`, row)))
	ok(t, page.Click(`[data-mode=on]`))
	ok(t, page.Until(`document.querySelector('.verdict > .big').textContent === 'Works offline'`))
	if a := get(t, manifestURL(m, large.Repo, large.Tag)); a.Status != http.StatusServiceUnavailable {
		t.Errorf("offline, what is not stored is answered with %d", a.Status)
	}
	pull(small)
	ok(t, page.Click(`[data-mode=off]`))
	ok(t, page.Until(`document.querySelector('.verdict > .big').textContent !== 'Works offline'`))

	// A download is seen while it is under way, which takes some seconds.
	pulled := make(chan struct{})
	go func() {
		defer close(pulled)
		pull(large)
	}()
	ok(t, page.Until(`document.querySelector('#downloads tbody tr')?.textContent.includes('dash/large')`))
	ok(t, page.Until(`document.querySelector('#downloads tbody tr progress')?.value > 0`))
	<-pulled
	ok(t, page.Until(`document.querySelectorAll('#downloads tbody tr').length === 0`))
	ok(t, page.Until(`document.querySelector('[data-t="tiles.images"]').textContent === '2'`))

	ok(t, page.Click(row+`[data-remove]`))
	ok(t, page.Click(`#confirm-force`))
	ok(t, page.Click(`#confirm button.danger`))
	ok(t, page.Until(fmt.Sprintf(`!document.querySelector(%q)`, row)))
	if !js[bool](t, page, `window.same`) {
		t.Error("the page was loaded anew")
	}
}
