//go:build !race

// What is large takes the race detector minutes, and it has nothing to find here: reading a
// document is the work of one goroutine.

package source

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestBounded reads large documents, and such as would be much larger.
func TestBounded(t *testing.T) {
	const size = 2 << 20
	full := func(head, text string) string {
		return head + strings.Repeat(text, (DefaultMaxSize-1000-len(head))/len(text))
	}
	fill := func(head, text string) string { return head + strings.Repeat(text, (size-len(head))/len(text)) }
	// few is like fill, with fewer marks than there can be.
	few := func(head, text string, marks int) string { return head + strings.Repeat(text, maxValues/10/marks) }
	number := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for name, tt := range map[string]struct{ text, want string }{
		"too large":                 {strings.Repeat("a", DefaultMaxSize+1), "f: is larger than 10 MiB: split it"},
		"the same image":            {full("", "quay.io/team/app:1\n"), ""},
		"comments":                  {fill("a\n", "# x\n"), ""},
		"as many images as can be":  {number("quay.io/a/b:%d\n", MaxImages), ""},
		"more images":               {number("quay.io/a/b:%d\n", MaxImages+1), "f, line 100001: has more than 100000 images"},
		"wrong lines":               {"nginx\n" + strings.Repeat("A\n", 50000), "f: and "},
		"placeholders":              {number("${X%d}\n", 100000), "f: and "},
		"one line":                  {fill("a", "a"), "is too long"},
		"YAML: images":              {fill("version: 1\nimages:\n", "- quay.io/team/app:1\n"), ""},
		"YAML: commas":              {full("services: [", "a,"), "more than 1000000 values"},
		"YAML: dashes":              {full("services:\n", "- \n"), "more than 1000000 values"},
		"YAML: fewer commas":        {few("services: [", "a,", 1) + "]", "services is no mapping"},
		"YAML: aliases":             {few("x: &x {}\nservices: [", "*x ,", 1) + "]", "services is no mapping"},
		"YAML: unfinished quotes":   {few("services: [", "\"a ,", 1) + "]", "is not readable as YAML"},
		"YAML: flow keys":           {few("services: {", "? ,", 2) + "}", ""},
		"YAML: brackets":            {few("services: ", "[", 1), "more than 100 levels"},
		"YAML: braces":              {few("services: ", "{a: ", 2), "more than 100 levels"},
		"YAML: questions":           {few("services: x\n", "? ", 1), "more than 100 levels"},
		"YAML: comments":            {few("services: {}\n", "# xxxxxxx\n", 1), ""},
		"YAML: comments in between": {few("services:\n", " a: # x\n # y\n", 3), ""},
		"YAML: text":                {few("services: {}\nx: |\n", "  aaaaaaaaaaaaa\n\n", 2), ""},
		"YAML: quotes":              {fill("services: {}\nx: \"", "\\n") + "\"", ""},
		"YAML: keys":                {number("a%d:\n", 30000) + "services: {}\n", ""},
		"YAML: documents":           {fill("services: {}\n", "---\n"), "more than 10000 documents"},
		"YAML: anchors":             {number("a%d: &a%[1]d\n", 60000) + "services: {}\n", ""},
		"YAML: long key":            {fill("services: {}\n", "a") + ": x\n", ""},
		"JSON: commas":              {fill("[", "1,"), "more than 1000000 values"},
		"JSON: brackets":            {fill("", "["), "is not readable as JSON"},
		"JSON: documents":           {fill("", `{"apiVersion":"a","kind":"b"}`), "more than 10000 documents"},
		"JSON: comments":            {fill("{\"services\": {}}", "/**/"), ""},
		"bomb in services":          {bomb() + "services: {a: *x44, b: *x43}\n", "its aliases stand for too much"},
		"bomb of what is not there": {strings.ReplaceAll(bomb(), "image", "restart") + "services: {a: *x44}\n", "its aliases stand for too much"},
		"bomb in objects":           {bomb() + "apiVersion: v1\nkind: Pod\nspec: *x44\n", ""},
		"bomb in a seed file": {"version: 1\nplatforms: &p [" + strings.TrimSuffix(strings.Repeat("a/b,", 100), ",") + "]\nimages:\n- &i {image: a, platforms: *p}\n" +
			strings.Repeat("- *i\n", 400000), "its aliases stand for too much"},
		"merged large mappings": {"x: &x {" + number("a%d: ,", 50000) + "}\nservices:\n" + number("  s%d: {<<: *x}\n", 50000), "its aliases stand for too much"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			d, err := read(tt.text)
			t.Logf("%d bytes took %s: %.200v", len(tt.text), time.Since(began).Round(time.Millisecond), err)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %.500v, want %q", err, tt.want)
			}
			if len(d.Wants) > MaxImages || err != nil && len(err.Error()) > 200*maxMessages {
				t.Errorf("%d images, an error of %d bytes", len(d.Wants), len(err.Error()))
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
}

// bomb is YAML whose aliases stand for 10 to the power of 45 values.
func bomb() string {
	var b strings.Builder
	b.WriteString("x0: &x0 {image: a}\n")
	for i := 1; i < 45; i++ {
		fmt.Fprintf(&b, "x%d: &x%d {<<: [%s]}\n", i, i, strings.Repeat(fmt.Sprintf("*x%d,", i-1), 10))
	}
	return b.String()
}
