package config

// RemoteOf is the remote registry with that host, and everything else as it is by default:
// what REGISTRY_PROXY_REMOTEURL alone would make. It is no default for names that say
// nothing of a remote.
func RemoteOf(host string) (Remote, error) {
	c, err := source{environ: []string{"REGISTRY_PROXY_REMOTEURL=https://" + host}}.load("")
	if err != nil {
		return Remote{}, err
	}
	r := c.Remotes[0]
	r.Default = false
	return r, nil
}
