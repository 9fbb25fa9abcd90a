// Package dashboard is the page on which an operator sees at a glance whether a module is
// well, what it does, what it saves, and what is wrong and what to do about it.
//
// It promises a page that is complete without JavaScript and needs nothing from anywhere
// else, that is live with JavaScript, and on which whatever names of images, answers of
// remotes and errors contain is text: the page is made by html/template, the script sets
// text and never markup, and a Content-Security-Policy rules out inline scripts and styles.
// It shows what its [Source] tells and changes nothing itself: its buttons send requests to
// the actions of package admin, with the operator's token, which is kept in the memory of
// the browser's tab alone.
//
// What is shown is worked out twice, in view.go for the page as it is delivered and in
// assets/app.js for what it becomes; the markup and the words are there once, in page.html
// and words.go, from which the script takes them. A test in a browser compares the two.
//
// Of this module it imports cache, for what an image is, and server/admin, for what the
// state of a module is.
package dashboard
