-- Services that answer slower than their own past, for three windows in a row.
--
-- The past is the calm windows before; its level is the median of the windows' medians and its
-- spread the median absolute deviation from it (Hampel). A shift counts when every one of the last
-- three windows with enough requests lies above both twice the level and level + 8 spreads, and by
-- at least 50 ms: less than that no user sees.
with server as (
    select w.namespace, w.service, w.bucket, w.calm,
           sum(w.count) as n, sum(w.p50_ms * w.count) / sum(w.count) as p50
    from windows w
    where w.kind in ('server', 'consumer')
    group by w.namespace, w.service, w.bucket, w.calm
),
level as (
    select s.namespace, s.service, median(s.p50) as level, sum(s.n) as past_n
    from server s cross join params
    where s.calm and s.bucket < params.recent
    group by s.namespace, s.service
),
spread as (
    select s.namespace, s.service, median(abs(s.p50 - l.level)) as mad
    from server s
    join level l on l.namespace = s.namespace and l.service = s.service
    cross join params
    where s.calm and s.bucket < params.recent
    group by s.namespace, s.service
),
recent as (
    select s.namespace, s.service, s.bucket, s.n, s.p50, l.level, l.past_n, d.mad,
           s.p50 > 2.0 * l.level and s.p50 > l.level + 8.0 * 1.4826 * d.mad and s.p50 > l.level + 50.0 as slow
    from server s
    join level l on l.namespace = s.namespace and l.service = s.service
    join spread d on d.namespace = s.namespace and d.service = s.service
    cross join params
    where s.bucket >= params.recent and s.n >= 5
)
select r.namespace, r.service, min(r.bucket) as bucket, sum(r.n) as n,
       median(r.p50) as value, min(r.level) as baseline,
       (median(r.p50) - min(r.level)) / (1.4826 * min(r.mad) + 1.0) as score
from recent r cross join params
where r.past_n >= params.least
group by r.namespace, r.service
having count(*) >= 3 and bool_and(r.slow)
order by r.namespace, r.service
