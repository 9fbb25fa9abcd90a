package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/e2e/browser"
	"registry-module/e2e/lab"
	"registry-module/server/admin"
)

// dashboardIsWired tells that the binary has the dashboard.
const dashboardIsWired = true

// TestDashboard looks at the dashboard with a real browser, one for all of it.
func TestDashboard(t *testing.T) {
	path := must(lab.System("chromium", "chromium"))(t)
	b, stop, err := browser.Start(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	tests := map[string]func(*testing.T, *browser.Browser){
		"live":            dashboardIsLive,
		"keyboard":        dashboardByKeyboard,
		"actions":         dashboardActs,
		"without script":  dashboardWithoutScript,
		"10,000 images":   dashboardOfManyImages,
		"contrast":        dashboardContrast,
		"same as without": dashboardIsTheSame,
		"hostile":         dashboardOfHostileNames,
		"screenshots":     dashboardScreenshots,
	}
	if dashboardIsWired {
		tests["of the module"] = dashboardOfTheModule
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// tab opens the page in a tab of its own. After the test it has complained of nothing, and
// asked for nothing elsewhere.
func tab(t *testing.T, b *browser.Browser, address string, prepare ...func(*browser.Tab) error) *browser.Tab {
	t.Helper()
	page, stop, err := b.Tab()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, complaint := range page.Complaints() {
			if !strings.Contains(complaint, "401 (Unauthorized)") { // as expected of a wrong token
				t.Errorf("the browser complains: %s", complaint)
			}
		}
		for _, request := range page.Requests() {
			if !strings.HasPrefix(request, address) {
				t.Errorf("the page asks for %s", request)
			}
			if strings.Contains(request, operatorToken) {
				t.Errorf("the token is in the address %s", request)
			}
		}
		stop()
	})
	ok(t, page.Size(1280, 900, false))
	for _, p := range prepare {
		ok(t, p(page))
	}
	ok(t, page.Open(address+"/"))
	return page
}

// scripted opens the page and waits until it is live.
func scripted(t *testing.T, b *browser.Browser, address string, prepare ...func(*browser.Tab) error) *browser.Tab {
	t.Helper()
	page := tab(t, b, address, prepare...)
	ok(t, page.Until(`document.getElementById('live').textContent === 'Live'`))
	return page
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func js[T any](t *testing.T, page *browser.Tab, expression string) T {
	t.Helper()
	return must(browser.Eval[T](page, expression))(t)
}

func dashboardIsLive(t *testing.T, b *browser.Browser) {
	s := newShown(t, 100)
	page := scripted(t, b, s.URL)
	js[any](t, page, `window.same = true; document.getElementById('q').focus()`)
	dgst := digest.FromString("layer")
	s.change(func() {
		s.fills = []cache.FillStats{{
			Place: cache.Place{Host: "registry-1.docker.io", Repo: "library/postgres"}, Digest: dgst,
			Size: 100 << 20, Have: 10 << 20, Fetched: 10 << 20, Begun: time.Now(), LastByte: time.Now(), Clients: 2,
		}}
	})
	ok(t, page.Until(`document.querySelector('#downloads tbody tr th')?.textContent.includes('library/postgres')`))
	js[any](t, page, `window.row = document.querySelector('#downloads tbody tr')`)
	s.change(func() { s.fills[0].Have, s.fills[0].Fetched, s.fills[0].LastByte = 60<<20, 60<<20, time.Now() })
	ok(t, page.Until(`document.querySelector('#downloads progress').value === 60 * 1024 * 1024`))
	if got := js[string](t, page, `document.querySelector('#downloads tbody tr').innerText`); !strings.Contains(got, "60.0 %") || !strings.Contains(got, "2 clients") {
		t.Errorf("the row of the download is %q", got)
	}
	if !js[bool](t, page, `window.same && window.row === document.querySelector('#downloads tbody tr') && document.activeElement.id === 'q'`) {
		t.Error("the page, the row or the focus is another one after an update")
	}
	s.change(func() {
		s.fills = nil
		s.remotes[0] = admin.Remote{Host: "registry-1.docker.io", State: "offline", Reason: "no route to host", NextTry: time.Now().Add(time.Minute)}
	})
	ok(t, page.Until(`document.querySelector('.verdict > .big').textContent === 'Works, but look at this'`))
	ok(t, page.Until(`document.getElementById('say').textContent.includes('no route to host')`))
	s.recorder.Problem("pulling <i>x</i> has failed", "look <b>here</b>")
	ok(t, page.Until(`document.querySelector('#problems li')?.textContent.includes('pulling <i>x</i> has failed')`))
	if !js[bool](t, page, `document.title.startsWith('Works, but look at this') && document.querySelector('#downloads tbody').children.length === 0 && window.same`) {
		t.Error("the download is still there, or the title does not say what is wrong")
	}
	// What is stored changes, while the focus is in the middle of it.
	js[any](t, page, `document.querySelectorAll('#list tbody [data-remove]')[20].focus(); window.at = document.activeElement`)
	s.change(func() { s.images = slices.Delete(s.images, 5, 10) })
	s.recorder.ImagesChanged()
	ok(t, page.Until(`document.getElementById('images-status').textContent === '1 to 50 of 95 images'`))
	if !js[bool](t, page, `document.activeElement === window.at`) {
		t.Error("the focus is lost when the list changes")
	}
}

// dashboardByKeyboard uses no mouse.
func dashboardByKeyboard(t *testing.T, b *browser.Browser) {
	s := newShown(t, 300)
	page := scripted(t, b, s.URL)
	// to presses Tab until what has the focus matches a selector.
	to := func(selector string, press func() error) {
		t.Helper()
		for range 200 {
			ok(t, press())
			if js[bool](t, page, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
				return
			}
		}
		t.Fatalf("%s is not reached by the keyboard", selector)
	}
	forth := func() error { return page.Keys("\t") }
	to(`.skip`, forth)
	if !js[bool](t, page, `getComputedStyle(document.activeElement).outlineStyle !== 'none' && document.activeElement.getBoundingClientRect().left >= 0`) {
		t.Error("the focus cannot be seen")
	}
	to(`#q`, forth)
	ok(t, page.Keys("app-0004"))
	ok(t, page.Until(`document.querySelector('#list tbody').children.length === 10`))
	to(`[data-sort=size]`, forth)
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.querySelector('th[aria-sort=descending]')?.textContent === 'Size' && !document.querySelector('[aria-busy]')`))
	sizes := `[...document.querySelectorAll('#list tbody tr td:nth-child(2) .num')].map(e => parseFloat(e.textContent))`
	if !js[bool](t, page, fmt.Sprintf(`document.activeElement.matches('[data-sort=size]') && (a => a.every((x, i) => i === 0 || x <= a[i-1]))(%s)`, sizes)) {
		t.Error("the list is not sorted, or the focus is lost")
	}
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.querySelector('th[aria-sort=ascending]')?.textContent === 'Size' && !document.querySelector('[aria-busy]')`))

	to(`#list tbody button[formaction="actions/pin"]`, forth)
	name := js[string](t, page, `document.activeElement.value`)
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.activeElement.id === 'token'`)) // it is missing
	ok(t, page.Keys(operatorToken+"\r"))
	ok(t, page.Until(`document.getElementById('token').value === '' && !document.getElementById('forget').hidden`))
	to(fmt.Sprintf(`#list tbody button[value=%q][formaction="actions/pin"]`, name), page.BackTab)
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.activeElement.matches('[formaction="actions/unpin"]')`))
	if got := s.acted(); !slices.Equal(got, []string{"pin " + name}) || js[string](t, page, `document.activeElement.value`) != name {
		t.Errorf("got %q, want that %s is pinned, and the focus where it was", got, name)
	}
	to(`[data-remove]`, forth)
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.getElementById('confirm').open`))
	to(`#confirm button.danger`, forth)
	if got := js[string](t, page, `document.getElementById('confirm-name').textContent`); got != name {
		t.Errorf("the question is about %q, want %q", got, name)
	}
	ok(t, page.Keys("\r"))
	ok(t, page.Until(`document.querySelector('#list tbody').children.length === 9`))
	if !js[bool](t, page, `document.activeElement.closest('#list') !== null || document.activeElement.id === 'images-status'`) {
		t.Error("the focus is lost with the row")
	}
}

func dashboardActs(t *testing.T, b *browser.Browser) {
	s := newShown(t, 60)
	page := scripted(t, b, s.URL)
	said := func(text string) {
		t.Helper()
		ok(t, page.Until(fmt.Sprintf(`document.getElementById('say').textContent.includes(%q)`, text)))
	}
	const image = "team/app-00002:1.0"
	row := fmt.Sprintf(`#list tr:has([value=%q]) `, image)
	ok(t, page.Click(row+`[name=image]`))
	said("Enter the operator's token first.")
	ok(t, page.Keys("wrong"))
	ok(t, page.Click(row+`[name=image]`))
	said("The token was not accepted.")
	if got := s.acted(); len(got) > 0 {
		t.Errorf("a wrong token did %q", got)
	}
	if js[bool](t, page, `Object.keys(sessionStorage).length > 0`) {
		t.Error("a wrong token is kept")
	}
	ok(t, page.Keys(operatorToken))
	ok(t, page.Click(`#keep`))
	said("kept in this tab")
	if !js[bool](t, page, fmt.Sprintf(`Object.values(sessionStorage)[0] === %q && localStorage.length === 0 && document.cookie === '' && !location.href.includes(%[1]q)`, operatorToken)) {
		t.Error("the token is not in the storage of the tab, or elsewhere as well")
	}
	var want []string
	do := func(selector, done string) {
		t.Helper()
		ok(t, page.Click(selector))
		said("Done: " + done + ".")
		if want = append(want, done); !slices.Equal(s.acted(), want) {
			t.Errorf("got %q, want %q", s.acted(), want)
		}
	}
	do(row+`[name=image]`, "pin "+image)
	ok(t, page.Until(fmt.Sprintf(`document.querySelector(%q).textContent.includes('by the operator')`, row)))
	do(row+`[name=image]`, "unpin "+image)
	do(row+`[formaction="actions/refresh"]`, "refresh "+image)
	ok(t, page.Click(row+`[data-remove]`))
	ok(t, page.Click(`#confirm button[value=no]`))
	ok(t, page.Click(row+`[data-remove]`))
	ok(t, page.Click(`#confirm-force`))
	do(`#confirm button.danger`, "remove "+image+", forced: true")
	ok(t, page.Until(fmt.Sprintf(`!document.querySelector(%q)`, row)))
	do(`[data-mode=on]`, "offline on")
	ok(t, page.Until(`document.querySelector('[data-mode=on]').getAttribute('aria-pressed') === 'true' && document.querySelector('.verdict > .big').textContent === 'Works offline'`))
	do(`[data-mode=auto]`, "offline auto")
	do(`#act button[formaction="actions/reload"]`, "reload")
	ok(t, page.Click(`#seed-image`))
	ok(t, page.Keys("docker.io/library/alpine:3.20 quay.io/a/b:1"))
	ok(t, page.Click(`#seed-platforms`))
	ok(t, page.Keys("linux/arm64"))
	do(`#seed button`, "seed [docker.io/library/alpine:3.20 quay.io/a/b:1] for [linux/arm64]")
	ok(t, page.Open(s.URL+"/")) // the tab still has it
	ok(t, page.Until(`!document.getElementById('forget').hidden`))
	ok(t, page.Click(`#forget`))
	said("The token is forgotten.")
	if js[bool](t, page, `Object.keys(sessionStorage).length > 0`) {
		t.Error("the token is not forgotten")
	}
}

func dashboardWithoutScript(t *testing.T, b *browser.Browser) {
	s := newShown(t, 120)
	page := tab(t, b, s.URL, (*browser.Tab).NoScript)
	got := strings.Join(strings.Fields(js[string](t, page, `document.body.innerText`)), " ")
	for _, want := range []string{"All is well", "registry-1.docker.io", "12 GiB of 20 GiB allowed", "team/app-00049:1.0", "1 to 50 of 120 images", "As of "} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q: %s", want, got)
		}
	}
	ok(t, page.Click(`#next`))
	ok(t, page.Until(`document.getElementById('images-status').innerText === '51 to 100 of 120 images'`))
	ok(t, page.Click(`#q`))
	ok(t, page.Keys("app-0007\r"))
	ok(t, page.Until(`document.getElementById('images-status').innerText === '1 to 10 of 10 images'`))
	ok(t, page.Click(`[data-sort=size]`))
	ok(t, page.Until(`document.querySelector('th[aria-sort=descending]').innerText === 'Size'`))
	ok(t, page.Click(`#token`))
	ok(t, page.Keys(operatorToken+"\r")) // Enter alone does nothing
	ok(t, page.Click(`button[value="team/app-00077:1.0"]`))
	ok(t, page.Until(`document.getElementById('said')?.innerText === 'Done: pin team/app-00077:1.0.'`))
	ok(t, page.Click(`#token`))
	ok(t, page.Keys("wrong"))
	ok(t, page.Click(`[data-mode=on]`))
	ok(t, page.Until(`document.getElementById('said')?.innerText.includes('token')`))
	ok(t, page.Click(`#list tbody [data-remove]`))
	ok(t, page.Until(`document.getElementById('remove')?.innerText.startsWith('Remove team/app-00000:1.0?')`))
	ok(t, page.Click(`#remove [type=password]`))
	ok(t, page.Keys(operatorToken))
	ok(t, page.Click(`#remove button`))
	ok(t, page.Until(`document.getElementById('said')?.innerText.startsWith('Done: remove')`))
	if got, want := s.acted(), []string{"pin team/app-00077:1.0", "remove team/app-00000:1.0, forced: false"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func dashboardOfManyImages(t *testing.T, b *browser.Browser) {
	s := newShown(t, 10_000)
	page := scripted(t, b, s.URL)
	if n := js[int](t, page, `document.querySelectorAll('*').length`); n >= 2000 {
		t.Errorf("the page has %d elements, want less than 2000", n)
	}
	for what, change := range map[string]string{
		"search": `(q => { q.value = 'app-09876'; q.form.requestSubmit(); })(document.getElementById('q'))`,
		"sort":   `document.querySelector('[data-sort=used]').click()`,
		"page":   `document.getElementById('next').click()`,
	} {
		js[any](t, page, `(q => { q.value = ''; q.form.requestSubmit(); })(document.getElementById('q'))`)
		ok(t, page.Until(`!document.querySelector('[aria-busy]')`))
		took := js[float64](t, page, `new Promise(done => {
			const begun = performance.now();
			const look = new MutationObserver(() => {
				if (!document.querySelector('[aria-busy]')) { look.disconnect(); requestAnimationFrame(() => done(performance.now() - begun)); }
			});
			look.observe(document.getElementById('list'), { attributes: true });
			`+change+`;
		})`)
		t.Logf("%s among 10,000 images: %.0f ms", what, took)
	}
	if n := js[int](t, page, `document.querySelectorAll('*').length`); n >= 2000 {
		t.Errorf("the page has %d elements, want less than 2000", n)
	}
}
