package fetch_test

import (
	"boxd/internal/cache"
	"boxd/internal/schedule"
)

type cacheOptions = cache.Options

func limit(n int64) schedule.Limit { return schedule.LimitTo(n) }
