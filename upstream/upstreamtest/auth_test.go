package upstreamtest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"registry-module/upstream/upstreamtest"
)

func TestIdentityToken(t *testing.T) {
	form := func(token string) url.Values {
		return url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"test"},
			"service": {"upstreamtest"}, "scope": {"repository:a:pull"},
		}
	}
	without := func(key string) url.Values {
		f := form("secret-first")
		f.Del(key)
		return f
	}
	for name, tt := range map[string]struct {
		auth   upstreamtest.Auth
		forms  []url.Values
		status []int
	}{
		"lasting":          {upstreamtest.Auth{IdentityToken: "secret-first"}, []url.Values{form("secret-first"), form("secret-first")}, []int{200, 200}},
		"good once":        {upstreamtest.Auth{IdentityToken: "secret-first", Rotate: true}, []url.Values{form("secret-first"), form("secret-first")}, []int{200, 400}},
		"wrong":            {upstreamtest.Auth{IdentityToken: "secret-first"}, []url.Values{form("other")}, []int{400}},
		"no grant type":    {upstreamtest.Auth{IdentityToken: "secret-first"}, []url.Values{without("grant_type")}, []int{400}},
		"no client":        {upstreamtest.Auth{IdentityToken: "secret-first"}, []url.Values{without("client_id")}, []int{400}},
		"none are taken":   {upstreamtest.Auth{}, []url.Values{form("secret-first"), form("")}, []int{404, 404}},
		"with no password": {upstreamtest.Auth{IdentityToken: "secret-first", Username: "me", Password: "secret"}, []url.Values{form("secret-first")}, []int{200}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := upstreamtest.New(t)
			reg.AddManifest("a", "v1", "application/json", []byte("{}"))
			tt.auth.Scheme = "Bearer"
			reg.SetAuth(tt.auth)
			for i, f := range tt.forms {
				resp, err := http.PostForm("http://"+reg.TokenHost()+"/token", f)
				if err != nil {
					t.Fatal(err)
				}
				var answer struct {
					AccessToken  string `json:"access_token"`
					RefreshToken string `json:"refresh_token"`
				}
				if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
					t.Error(err)
				}
				resp.Body.Close()
				if resp.StatusCode != tt.status[i] {
					t.Errorf("answer %d has status %d, want %d", i, resp.StatusCode, tt.status[i])
				}
				if resp.StatusCode != 200 {
					continue
				}
				if answer.RefreshToken != reg.IdentityToken() || (answer.RefreshToken == "secret-first") == tt.auth.Rotate {
					t.Errorf("the next identity token is %q", answer.RefreshToken)
				}
				if got, _, err := get(t, reg, "/v2/a/manifests/v1", "Authorization", "Bearer "+answer.AccessToken); err != nil || got.StatusCode != 200 {
					t.Errorf("the token is not taken: %v, %v", got, err)
				}
			}
			log := reg.Log()
			if want := tt.forms[0].Encode(); log[0].Kind != upstreamtest.Token || log[0].Body != want {
				t.Errorf("the log has a %s with %q, want %q", log[0].Kind, log[0].Body, want)
			}
			if strings.Contains(log[0].Query, "secret") {
				t.Errorf("the query is %q", log[0].Query)
			}
		})
	}
}
