package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/config"
	"registry-module/server/admin"
)

// newSeedGate lets those seed by the admin address who have the token.
func newSeedGate(tokenFile string, seed http.Handler, log logrus.FieldLogger) http.Handler {
	return admin.NewGate(admin.GateOptions{
		Token:   func(context.Context) (string, error) { return config.ReadToken(tokenFile) },
		Realm:   "registry-module seed",
		Setting: "REGISTRY_SEED_TOKENFILE",
		Purpose: "seed by the admin address",
		How:     "registry-module seed --token-file",
		Log:     log,
	}).Handler(seed)
}

// remoteServer is a server elsewhere that is seeded by its admin address.
type remoteServer struct {
	url       *url.URL
	tokenFile string
	http      *http.Client
}

// parseServer reads the URL of the admin address of a server. Errors do not repeat it, since
// it may hold a password by mistake.
func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("--to is not the URL of a server: write that of its admin address, for example https://gateway.example.com:5001")
	case u.User != nil:
		return nil, errors.New("--to holds credentials: name the file that holds the token by --token-file instead")
	case u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("--to has a query or a fragment: write the URL of the admin address alone, for example https://gateway.example.com:5001")
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/seed")
	return u, nil
}

func newRemoteServer(u *url.URL, tokenFile string) *remoteServer {
	transport := http.DefaultTransport.(*http.Transport).Clone() // system roots, and the proxy of the environment
	transport.DisableKeepAlives = true
	transport.ResponseHeaderTimeout = 2 * time.Minute // it is asked what its disk has, and not yet its remotes
	return &remoteServer{u, tokenFile, &http.Client{
		Transport: transport,
		// The token is for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// client has the server seed.
func (s *remoteServer) client() *seedClient {
	name := "the server at " + s.url.Host
	return &seedClient{send: s.send, server: name,
		absent: name + " lets nobody seed it at this address: set REGISTRY_SEED_TOKENFILE there, and name its admin address here (REGISTRY_HTTP_DEBUG_ADDR, port 5001)"}
}

func (s *remoteServer) send(ctx context.Context, target string, job []byte) (*http.Response, error) {
	token, err := config.ReadToken(s.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String()+target, bytes.NewReader(job))
	if err != nil {
		return nil, errors.New("--to is not the URL of a server: write that of its admin address, for example https://gateway.example.com:5001")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("User-Agent", "registry-module/"+version)
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("talking to the server at %s: %w", s.url.Host, withoutURL(err))
	}
	problem := ""
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		problem = "does not take the token of " + s.tokenFile + ": it has to be that of the file that REGISTRY_SEED_TOKENFILE names there"
	case resp.StatusCode == http.StatusTooManyRequests:
		problem = "has had too many attempts without the right token: run this again in a minute"
	case resp.StatusCode/100 == 3:
		problem = "sends us elsewhere, where the token must not go: name its own address"
	default:
		return resp, nil
	}
	_ = resp.Body.Close() // its status says all
	return nil, fmt.Errorf("the server at %s %s", s.url.Host, problem)
}
