package config

// finishAdmin reads what can be done at the admin address.
func (l *loader) finishAdmin(doc *document, c *Config) {
	c.AdminTokenFile, c.PProf = doc.Admin.TokenFile, doc.Admin.PProf
	l.token("admin.tokenfile", c.AdminTokenFile)
}
