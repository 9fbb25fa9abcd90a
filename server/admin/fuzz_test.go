package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What was understood of a query can be written so that it is understood in the same way,
// and is within the bounds.
func FuzzImageQuery(f *testing.F) {
	for _, seed := range []string{"", "q=a&sort=size&order=asc&offset=10&limit=5", "limit=0", "q=%ff", "sort=x", "limit=-1", "offset=99999999999999999999", "q=a&q=b"} {
		f.Add(seed)
	}
	list := &imageList{entries: []entry{{asked: "a", tag: "1"}, {asked: "b", digest: "sha256:x"}}}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			t.Skip()
		}
		q, err := ParseImageQuery(values)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "%!") {
				t.Error(err)
			}
			return
		}
		if q.Limit < 1 || q.Limit > MaxLimit || q.Offset < 0 || len(q.Text) > maxSearch {
			t.Errorf("%+v", q)
		}
		again, err := ParseImageQuery(q.Values())
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%+v, again %+v, %v", q, again, err)
		}
		if page := list.page(q); len(page.Images) > page.Total || page.Total > page.All {
			t.Errorf("%+v", page)
		}
	})
}

// No header passes but the one with the token.
func FuzzTokenHeader(f *testing.F) {
	for _, seed := range []string{"", "Bearer " + goodToken, "bearer  " + goodToken, "Bearer", "Basic x", "Bearer " + goodToken + " x", "Bearer\t" + goodToken} {
		f.Add(seed)
	}
	gate := NewGate(GateOptions{Token: token, Pause: 1})
	f.Fuzz(func(t *testing.T, header string) {
		given, ok := Bearer(http.Header{"Authorization": {header}})
		admitted := gate.Admit(t.Context(), given, ok, "") == nil
		scheme, rest, _ := strings.Cut(header, " ")
		if want := strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(rest) == goodToken; admitted != want {
			t.Errorf("%q: admitted %v", header, admitted)
		}
	})
}

// Whatever is sent is answered in words, and does no more than one thing.
func FuzzAction(f *testing.F) {
	f.Add("pin", `{"image":"a"}`, isJSON)
	f.Add("remove", "image=a&all=on&force=x", isFormType)
	f.Add("seed", `{"images":["a","b"],"platforms":[]}`, isJSON)
	f.Add("offline", "mode=on", isFormType)
	f.Add("reload", "\x00", "text/plain; charset=\xff")
	f.Fuzz(func(t *testing.T, action, body, contentType string) {
		does := &fakeActions{}
		s := New(Options{Actions: does, Token: token})
		defer s.Close()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/actions/"+url.PathEscape(action), strings.NewReader(body))
		r.Header = http.Header{"Authorization": {"Bearer " + goodToken}, "Content-Type": {contentType}}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code == 200 && len(does.done) != 1 || w.Code >= 400 && len(does.done) != 0 || w.Code == 500 {
			t.Errorf("status %d, %q", w.Code, does.done)
		}
	})
}

// No text is longer than it may be, or has what cannot be seen.
func FuzzCleanText(f *testing.F) {
	for _, seed := range []string{"", "a\nb", "https://me:pass@host/x?y=z#f", "Authorization: Bearer abcdefghijkl", "\xff\u202e", strings.Repeat("é", 1000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		clean := cleanText(text)
		if len(clean) > maxText+3 || !utf8.ValidString(clean) || strings.ContainsFunc(clean, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("%q", clean)
		}
	})
}
