package policy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"registry-module/auth/policy"
)

const sample = `
rules:
  - users: [line1, "line-*"]
    certificates: ["press-*"]
    pull: ["team/**", "docker.io/library/*", "r.example:5000/x/*"]
    deny: ["team/secret/**"]
    catalog: true
  - users: [boss]
    pull: ["team/secret/**"]
  - users: ["*"]
    pull: [logged/in]
  - anonymous: true
    pull: [public/*]
`

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func user(name string) policy.Caller { return policy.Caller{User: name} }

func certificate(names ...string) policy.Caller { return policy.Caller{Certificates: names} }

func TestMayPull(t *testing.T) {
	p := parse(t, sample)
	nobody := policy.Caller{}
	for name, tt := range map[string]struct {
		caller policy.Caller
		names  []string
		want   bool
	}{
		"user":                          {user("line1"), []string{"team/app"}, true},
		"user by wildcard":              {user("line-7"), []string{"team/app"}, true},
		"another user":                  {user("line2"), []string{"team/app"}, false},
		"case counts":                   {user("LINE1"), []string{"team/app"}, false},
		"nobody":                        {nobody, []string{"team/app"}, false},
		"nobody, where all users may":   {nobody, []string{"logged/in"}, false},
		"any user":                      {user("x"), []string{"logged/in"}, true},
		"any certificate is no user":    {certificate("press-1"), []string{"logged/in"}, false},
		"public for nobody":             {nobody, []string{"public/a"}, true},
		"public for users":              {user("x"), []string{"public/a"}, true},
		"public for certificates":       {certificate("x"), []string{"public/a"}, true},
		"certificate":                   {certificate("press-1"), []string{"team/app"}, true},
		"second name of a certificate":  {certificate("x", "press-1.local"), []string{"team/app"}, true},
		"user called as a certificate":  {user("press-1"), []string{"team/app"}, false},
		"certificate called as a user":  {certificate("line1"), []string{"team/app"}, false},
		"certificate without name":      {certificate(""), []string{"team/app"}, false},
		"denied":                        {user("line1"), []string{"team/secret/x"}, false},
		"denied itself":                 {user("line1"), []string{"team/secret"}, false},
		"allowed by another rule":       {user("boss"), []string{"team/secret/x"}, true},
		"user and certificate":          {policy.Caller{User: "boss", Certificates: []string{"press-1"}}, []string{"team/secret/x"}, true},
		"second name":                   {user("line1"), []string{"nginx", "docker.io/library/nginx"}, true},
		"one name is denied":            {user("line1"), []string{"team/app", "team/secret/app"}, false},
		"host with port":                {user("line1"), []string{"r.example:5000/x/y"}, true},
		"host with another port":        {user("line1"), []string{"r.example:5001/x/y"}, false},
		"no names":                      {user("line1"), nil, false},
		"below what has one component":  {nobody, []string{"public/a/b"}, false},
		"pattern without host, at host": {user("line1"), []string{"quay.io/team/app"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.About(tt.caller).MayPull(policy.Repository{Names: tt.names}); got != tt.want {
				t.Errorf("%+v may pull %v: %v, want %v", tt.caller, tt.names, got, tt.want)
			}
		})
	}
}

func TestMayList(t *testing.T) {
	p := parse(t, sample)
	for name, tt := range map[string]struct {
		caller           policy.Caller
		list, any, named bool
	}{
		"user":              {user("line1"), true, true, true},
		"certificate":       {certificate("press-1"), true, true, true},
		"other user":        {user("boss"), false, true, true},
		"other certificate": {certificate("x"), false, true, false},
		"nobody":            {policy.Caller{}, false, true, false},
	} {
		if got := p.About(tt.caller).Named(); got != tt.named {
			t.Errorf("rules name %s: %v, want %v", name, got, tt.named)
		}
		if got := p.About(tt.caller).MayList(); got != tt.list {
			t.Errorf("%s may list: %v, want %v", name, got, tt.list)
		}
		if got := p.About(tt.caller).Any(); got != tt.any {
			t.Errorf("there are rules about %s: %v, want %v", name, got, tt.any)
		}
	}
	if !p.AnonymousMay() {
		t.Error("the rule about who has not logged in is not found")
	}
	closed := parse(t, "rules: [{users: [a], pull: [b], anonymous: false}]")
	if closed.AnonymousMay() || closed.About(policy.Caller{}).Any() {
		t.Error("there is a rule about who has not logged in")
	}
	var none policy.Rules
	if none.MayList() || none.MayPull(policy.Repository{Names: []string{"a"}}) {
		t.Error("no rules allow something")
	}
}

func TestWildcards(t *testing.T) {
	for pattern, names := range map[string]map[string]bool{
		"line1":    {"line1": true, "line12": false, "line": false},
		"*":        {"a": true, "a/b@c d": true},
		"line-*":   {"line-": true, "line-1": true, "line1": false, "xline-1": false},
		"*.local":  {"a.local": true, ".local": true, "a.local.x": false},
		"a*b*c":    {"abc": true, "axbxc": true, "ac": false, "abxb": false, "abcx": false},
		"a*a":      {"a": false, "aa": true, "aba": true},
		"a**b":     {"ab": true, "axb": true},
		"ab*bc":    {"abc": false, "abbc": true},
		"[a-z]?":   {"[a-z]?": true, "a1": false},
		"a*xy*y*b": {"axyb": false, "axyyb": true, "axyxyb": true},
	} {
		p := parse(t, fmt.Sprintf("rules: [{users: [%q], pull: [x]}]", pattern))
		for name, want := range names {
			if got := p.About(user(name)).MayPull(policy.Repository{Names: []string{"x"}}); got != want {
				t.Errorf("%s matches %s: %v, want %v", pattern, name, got, want)
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string // each is a line of the error, by its beginning
	}{
		"empty":             {"", []string{"the policy is empty"}},
		"comment":           {"# rules", []string{"the policy is "}},
		"text":              {"abc", []string{"line 1: the policy is not a mapping"}},
		"list":              {"- users: [a]", []string{"line 1: the policy is not a mapping"}},
		"no rules":          {"{}", []string{"the policy has no rules"}},
		"null rules":        {"rules:", []string{"line 1: rules is not a list"}},
		"empty rules":       {"rules: []", []string{"line 1: rules is not a list"}},
		"misspelt rules":    {"rule:\n- users: [a]", []string{`line 1: "rule" is not known: write rules`}},
		"twice":             {"rules: [{users: [a], pull: [b]}]\nrules: [{users: [a], pull: [b]}]", []string{"line 2: rules is there twice"}},
		"two documents":     {"rules: [{users: [a], pull: [b]}]\n---\nrules: [{users: [a], pull: [b]}]", []string{"line 2: the policy has more than one YAML document"}},
		"unknown key":       {"rules:\n- users: [a]\n  pull: [b]\n  denied: [c]", []string{`line 4: rules[0]."denied" is not known`}},
		"key of a rule":     {"rules:\n- users: [a]\n  users: [b]\n  pull: [b]", []string{"line 3: rules[0].users is there twice"}},
		"rule":              {"rules: [a]", []string{"line 1: rules[0] is not a rule"}},
		"nobody":            {"rules:\n- pull: [a]", []string{"line 2: rules[0] is about nobody"}},
		"nobody, empty":     {"rules:\n- users: []\n  anonymous: false\n  pull: [a]", []string{"line 2: rules[0] is about nobody"}},
		"nothing":           {"rules:\n- users: [a]", []string{"line 2: rules[0] allows nothing"}},
		"only deny":         {"rules:\n- users: [a]\n  deny: [b]\n  catalog: true", []string{"line 2: rules[0] denies what it does not allow"}},
		"no list":           {"rules:\n- users: a\n  pull: [b]", []string{"line 2: rules[0].users is not a list"}},
		"not yes":           {"rules:\n- users: [a]\n  pull: [b]\n  catalog: yes please", []string{"line 4: rules[0].catalog is not a yes or no"}},
		"quoted yes":        {"rules:\n- pull: [b]\n  anonymous: \"true\"", []string{"line 3: rules[0].anonymous is not a yes or no"}},
		"empty name":        {"rules:\n- users: ['']\n  pull: [b]", []string{"line 2: rules[0].users has an empty name"}},
		"control character": {"rules:\n- users: [\"a\\nb\"]\n  pull: [b]", []string{`line 2: rules[0].users: "a\nb" is no name`}},
		"null name":         {"rules:\n- users: [null]\n  pull: [b]", []string{"line 2: rules[0].users has something that is not text"}},
		"nested":            {"rules:\n- users: [[a]]\n  pull: [b]", []string{"line 2: rules[0].users has something that is not text"}},
		"pattern":           {"rules:\n- users: [a]\n  pull:\n  - b\n  - Team/x", []string{`line 5: rules[0].pull: "Team/x" has characters`}},
		"tag":               {"rules:\n- users: [a]\n  pull: ['team/app:1']", []string{`line 3: rules[0].pull: "team/app:1" has characters`}},
		"unquoted *":        {"rules:\n- users: [a]\n  pull: [*]", []string{"line 3: a pattern begins with *"}},
		"unquoted *a":       {"rules:\n- users: [*a]\n  pull: [b]", []string{"line 2: a pattern begins with *"}},
		"alias":             {"rules:\n- users: [&a b, *a]\n  pull: [b]", []string{"line 2: rules[0].users has a value that begins with *"}},
		"merge key":         {"x: &x {users: [a]}\nrules:\n- <<: *x\n  pull: [b]", []string{`line 1: "x" is not known`, `line 3: rules[0]."<<" is not known`}},
		"tab":               {"rules:\n\t- a", []string{"line 2: the policy cannot be read as YAML"}},
		"all at once": {"rules:\n- users: a\n  deny: ['/x']\n- pull: [b]\n- users: [x]\n  catalog: 1", []string{
			"line 2: rules[0].users is not a list", `line 3: rules[0].deny: "/x" has a slash`, "line 4: rules[1] is about nobody", "line 6: rules[2].catalog is not a yes or no",
		}},
		"deep":  {"rules: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), []string{"line 1: the policy cannot be read as YAML"}},
		"large": {strings.Repeat("#", policy.MaxSize+1), []string{"the policy has more than 262144 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Parse([]byte(tt.text))
			if err == nil || p != nil {
				t.Fatalf("accepted: %v, %v", p, err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("got %d mistakes, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("mistake %d is %q, want %q", i, lines[i], want)
				}
			}
		})
	}
}

// TestDocumentedPolicy reads the example that docs/access.md has.
func TestDocumentedPolicy(t *testing.T) {
	text, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(example, "```")
	if !ok {
		t.Fatal("there is no example")
	}
	p := parse(t, example)
	for repo, want := range map[string]bool{"team/app": true, "team/secret/app": false, "docker.io/library/nginx": true, "other/app": false} {
		if got := p.About(user("line-2")).MayPull(policy.Repository{Names: []string{repo}}); got != want {
			t.Errorf("%s: %v, want %v", repo, got, want)
		}
	}
	if !p.About(policy.Caller{}).MayPull(policy.Repository{Names: []string{"azureiotedge-agent"}}) {
		t.Error("what is for everybody is not")
	}
}

func TestParseBoundsMistakes(t *testing.T) {
	_, err := policy.Parse([]byte("rules:\n" + strings.Repeat("- {}\n", 1000)))
	if err == nil || strings.Count(err.Error(), "\n") != 50 || !strings.HasSuffix(err.Error(), "and more") {
		t.Errorf("got %v", err)
	}
}

// TestCatalogIsCheap decides about a catalog of 100,000 repositories by 500 rules that are
// all about the caller. The bound is that of a machine that is busy: it takes a tenth of a
// second.
func TestCatalogIsCheap(t *testing.T) {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "- {users: ['*'], pull: ['team%d/**', 'other%d/app-*/x'], deny: ['team%d/secret/**']}\n", i, i, i)
	}
	rules := parse(t, b.String()).About(user("a"))
	start := time.Now()
	for i := range 100_000 {
		name := fmt.Sprintf("team%d/app-%d", i%600, i)
		if got := rules.MayPull(policy.Repository{Names: []string{name, "quay.io/" + name}}); got != (i%600 < 500) {
			t.Fatalf("%s: %v", name, got)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("rules: [{users: [a], pull: [*]}]"))
	f.Add([]byte("rules: [{anonymous: true, catalog: true}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text)
		if (err == nil) != (p != nil) {
			t.Fatalf("%v with %v", p, err)
		}
		if err != nil {
			return
		}
		// What nobody is in is in no rule but those about everybody.
		if rules := p.About(policy.Caller{Certificates: []string{""}}); rules.Any() && !p.AnonymousMay() {
			t.Error("a rule is about nobody")
		}
		p.About(user("line-1")).MayPull(policy.Repository{Names: []string{"team/app", "quay.io/team/app"}})
	})
}
