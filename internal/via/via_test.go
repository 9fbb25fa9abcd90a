package via_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"registry-module/internal/via"
)

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  []string
	}{
		"none":            {nil, nil},
		"several entries": {[]string{"1.1 a, 1.0 b:8000 (nginx)", "HTTP/2 c"}, []string{"a", "b:8000", "c"}},
		"no name":         {[]string{"1.1", " , ", "1.1 a\tb"}, []string{"a"}},
		"not a name":      {[]string{"1.1 <script>, 1.1 " + strings.Repeat("x", 101) + ", 1.1 ok"}, []string{"ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := via.Parse(http.Header{via.Header: tt.lines}); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	long := http.Header{via.Header: {strings.Repeat("1.1 a, ", 1000)}}
	if got := via.Parse(long); len(got) != via.MaxHops+1 {
		t.Errorf("a long chain has %d names, want %d", len(got), via.MaxHops+1)
	}
}

func TestCarry(t *testing.T) {
	chain := []string{"a", "b"}
	ctx := via.Carry(t.Context(), via.With(context.Background(), chain))
	if got := via.From(ctx); !slices.Equal(got, chain) {
		t.Errorf("carried %q, want %q", got, chain)
	}
	_ = append(via.From(ctx), "c") // of one who does not know that it is shared
	header := http.Header{via.Header: {via.Value(append(via.From(ctx), "d"))}}
	if got := via.Parse(header); !slices.Equal(got, []string{"a", "b", "d"}) {
		t.Errorf("sent %q", got)
	}
	if via.From(t.Context()) != nil {
		t.Error("a chain without a request")
	}
}

func TestNames(t *testing.T) {
	a, b := via.NewName(), via.NewName()
	if a == b || !slices.Equal(via.Parse(http.Header{via.Header: {via.Value([]string{a, b})}}), []string{a, b}) {
		t.Errorf("names %q, %q", a, b)
	}
	chain := []string{a, "gateway.internal.test", b, "squid"}
	if got := via.Ours(chain); !slices.Equal(got, []string{a, "proxy", b, "proxy"}) || len(chain) != 4 || chain[1] != "gateway.internal.test" {
		t.Errorf("ours of %q: %q", chain, got)
	}
}

func TestNamed(t *testing.T) {
	for value, want := range map[string]bool{
		"": false, "1.1 squid": false, "1.1 registry-module": false, "registry-module-a": false,
		"1.1 " + via.NewName(): true, "1.1 " + via.NewName() + ", 1.1 squid": true,
	} {
		if got := via.Named(http.Header{via.Header: {value}}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1.1 a, 1.0 b (c)")
	f.Fuzz(func(t *testing.T, line string) {
		chain := via.Parse(http.Header{via.Header: {line}})
		if len(chain) == 0 {
			return
		}
		again := via.Parse(http.Header{via.Header: {via.Value(chain)}})
		if !slices.Equal(again, chain) {
			t.Errorf("%q reads as %q, written and read again as %q", line, chain, again)
		}
	})
}
