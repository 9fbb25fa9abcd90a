package deploy

import (
	"os"
	"strings"
	"testing"
)

// TestServiceSettings loads the settings of the sample for the service of systemd, as
// they are, and with those that are commented out.
func TestServiceSettings(t *testing.T) {
	text, err := os.ReadFile("systemd/registry-module.env")
	if err != nil {
		t.Fatal(err)
	}
	for name, prefix := range map[string]string{"as it is": "", "uncommented": "#"} {
		t.Run(name, func(t *testing.T) {
			set := 0
			for line := range strings.Lines(string(text)) {
				key, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), prefix), "=")
				if ok && !strings.ContainsAny(key, "# ") {
					t.Setenv(key, value)
					set++
				}
			}
			c := load(t, "")
			if len(c.Remotes) != 2 || c.MaxSize == 0 || c.AdminAddr != "127.0.0.1:5001" {
				t.Errorf("the settings give %+v", c)
			}
			if want := map[string]int{"": 6, "#": 8}[prefix]; set != want {
				t.Errorf("%d settings, want %d", set, want)
			}
		})
	}
}
