package admin

// hintNoRoom is for want of room.
const hintNoRoom = "make room on the disk, raise REGISTRY_CACHE_MAXSIZE, or remove what is pinned and not needed"

func hintOf(err error) string { return "" }

func hintOfText(text string) string { return "" }
