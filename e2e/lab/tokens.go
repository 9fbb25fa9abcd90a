package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"
)

// tokenServer issues the Bearer tokens that the stock registry trusts, as
// https://distribution.github.io/distribution/spec/auth/token/ describes, to
// one user. Its ServeHTTP is the realm.
type tokenServer struct {
	username, password string
	service            string
	identity           string             // the refresh token in the password's place; empty for none
	issued             func(token string) // called with each token
	key                *ecdsa.PrivateKey
	cert               []byte // DER
}

const tokenIssuer = "registry-module-lab"

func newTokenServer(username, password, service string) (*tokenServer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a token server: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: tokenIssuer},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making a token server: %w", err)
	}
	return &tokenServer{username: username, password: password, service: service, key: key, cert: cert}, nil
}

// writeCert writes what the registry wants as its rootcertbundle.
func (s *tokenServer) writeCert(path string) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert}), 0o644)
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.known(r) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("WWW-Authenticate", `Basic realm="token"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintln(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user or password"}]}`)
		return
	}
	if got := r.FormValue("service"); got != s.service {
		http.Error(w, fmt.Sprintf("no such service: %q", got), http.StatusBadRequest)
		return
	}
	token, err := s.token(strings.Join(r.Form["scope"], " "), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// The client's mistakes are its own: nothing to do about a failed write.
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

// known tells whether a request is by the one user.
func (s *tokenServer) known(r *http.Request) bool {
	if s.identity != "" {
		// RFC 6749, section 6.
		return r.Method == http.MethodPost && r.PostFormValue("grant_type") == "refresh_token" &&
			subtle.ConstantTimeCompare([]byte(r.PostFormValue("refresh_token")), []byte(s.identity)) == 1
	}
	username, password, _ := r.BasicAuth()
	return username == s.username && subtle.ConstantTimeCompare([]byte(password), []byte(s.password)) == 1
}

// token signs a JWT (RFC 7519) with ES256 for scopes such as
// "repository:a/b:pull,push registry:catalog:*".
func (s *tokenServer) token(scopes string, now time.Time) (string, error) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for scope := range strings.FieldsSeq(scopes) {
		// A name may hold colons (host:port), so cut from both ends.
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			return "", fmt.Errorf("cannot read the scope %q", scope)
		}
		granted = append(granted, access{kind, rest[:i], strings.Split(rest[i+1:], ",")})
	}
	header := map[string]any{
		"typ": "JWT", "alg": "ES256",
		"x5c": []string{base64.StdEncoding.EncodeToString(s.cert)},
	}
	claims := map[string]any{
		"iss": tokenIssuer, "sub": s.username, "aud": s.service,
		"exp": now.Add(5 * time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(),
		"jti": rand.Text(), "access": granted,
	}
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	sum := sha256.Sum256([]byte(signed))
	// RFC 7518, section 3.4: r and s, 32 bytes each.
	x, y, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	signature := make([]byte, 64)
	x.FillBytes(signature[:32])
	y.FillBytes(signature[32:])
	token := signed + "." + base64.RawURLEncoding.EncodeToString(signature)
	if s.issued != nil {
		s.issued(token)
	}
	return token, nil
}
