package dashboard

import (
	"testing"

	"golang.org/x/net/html/atom"

	"registry-module/server/admin"
)

func TestQuery(t *testing.T) {
	for path, want := range map[string]admin.ImageQuery{
		"/":                               {Sort: "name", Limit: 50},
		"/?q=+a+&sort=size&offset=100":    {Text: "a", Sort: "size", Descending: true, Offset: 100, Limit: 50},
		"/?sort=used&order=asc&offset=99": {Sort: "used", Offset: 50, Limit: 50},
		"/?sort=nonsense&q=b":             {Sort: "name", Limit: 50},
		"/?offset=-1":                     {Sort: "name", Limit: 50},
		"/?limit=1000":                    {Sort: "name", Limit: 50},
	} {
		f := full("")
		if get(t, f, path); f.asked != want {
			t.Errorf("%s asks for %+v, want %+v", path, f.asked, want)
		}
	}
}

func TestLinksOfTheList(t *testing.T) {
	doc := page(t, full(""), "/?q=app&sort=size&offset=50")
	for id, want := range map[string]string{
		"previous": "./?order=desc&q=app&sort=size#images",
		"next":     "./?offset=100&order=desc&q=app&sort=size#images",
	} {
		if got, _ := attr(byID(t, doc, id), "href"); got != want {
			t.Errorf("%s leads to %s, want %s", id, got, want)
		}
	}
	want := map[string]string{
		"name": "./?order=asc&q=app&sort=name#images", "size": "./?order=asc&q=app&sort=size#images",
		"used": "./?order=desc&q=app&sort=used#images", "pinned": "./?order=desc&q=app&sort=pinned#images",
	}
	for n := range doc.Descendants() {
		column, ok := attr(n, "data-sort")
		if !ok || n.DataAtom != atom.A {
			continue
		}
		if got, _ := attr(n, "href"); got != want[column] {
			t.Errorf("%s leads to %s, want %s", column, got, want[column])
		}
		if sorted, _ := attr(n.Parent, "aria-sort"); sorted != map[string]string{"size": "descending"}[column] {
			t.Errorf("aria-sort of %s is %q", column, sorted)
		}
		delete(want, column)
	}
	if len(want) > 0 {
		t.Errorf("there is nothing to sort by %v", want)
	}
}
