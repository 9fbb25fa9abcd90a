package server

import "testing"

// Strings and numbers are within what structured fields allow (RFC 9651, sections 3.3.1 and
// 3.3.3).
func TestMember(t *testing.T) {
	m := member("name")
	m.flag("hit")
	m.token("fwd", "stale")
	m.integer("ttl", -5)
	m.integer("most", 1<<62)
	m.text("detail", "a \"b\" \\ \r\n\tö\x7f\x00")
	const want = `name; hit; fwd=stale; ttl=-5; most=999999999999999; detail="a \"b\" \\ "`
	if string(m) != want {
		t.Errorf("%s, want %s", m, want)
	}
}
