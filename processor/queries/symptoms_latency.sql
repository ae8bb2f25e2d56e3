-- Services that answer slower than their own past: by their own spans, or where they send none by those of
-- the services that ask them, if two of these or more wait. What only one waits for may be its own doing.
--
-- Judged per operation, and per caller: when the mix of requests shifts, the median of a service moves though
-- nothing is slower. The past is the calm windows before; its level is the median of the windows' medians and
-- its spread the median absolute deviation from it (Hampel). A shift counts when the newest windows,
-- four at least and with nine requests in five minutes at most, lie above both twice the level and
-- level + 8 spreads, and by at least 50 ms: less than that no user sees; a window in five may be an
-- exception. When it began is known to a window and the time from one request to the next. Of a service's
-- operations the most used one speaks for it. In each join the few rows come first:
-- they are what is kept in memory.
with speaks as (
    select distinct w.namespace, w.service
    from params cross join windows w
    where w.kind in ('server', 'consumer') and w.arrived >= params.recent
),
sides as (
    -- who answers, and who asks: of its own spans nobody knows
    select w.*, w.kind in ('server', 'consumer') as own
    from windows w
    where w.kind in ('server', 'consumer') or (w.kind in ('client', 'producer') and w.peer <> '')
),
touched as (
    select distinct w.own, w.namespace, w.service, w.peer_namespace, w.peer, w.operation
    from params
    cross join sides w
    left join speaks s on s.namespace = w.peer_namespace and s.service = w.peer
    where w.arrived >= params.recent and w.p50_ms > 50.0 and (w.own or s.service is null)
),
per as (
    select w.own, w.namespace, w.service, w.peer_namespace, w.peer, w.operation, w.bucket,
           bool_and(w.calm) as calm, sum(w.looked) as n,
           sum(w.p50_ms * w.looked) / sum(w.looked) as p50, max(w.arrived) as arrived
    from touched t
    join sides w on w.own = t.own and w.namespace = t.namespace and w.service = t.service
                and w.peer_namespace = t.peer_namespace and w.peer = t.peer and w.operation = t.operation
    group by w.own, w.namespace, w.service, w.peer_namespace, w.peer, w.operation, w.bucket
),
level as (
    select p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           median(p.p50) as level, sum(p.n) as past_n
    from per p cross join params
    where p.calm and p.arrived < params.recent
    group by p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation
),
spread as (
    select p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           median(abs(p.p50 - l.level)) as mad
    from per p
    join level l on l.own = p.own and l.namespace = p.namespace and l.service = p.service
                and l.peer_namespace = p.peer_namespace and l.peer = p.peer and l.operation = p.operation
    cross join params
    where p.calm and p.arrived < params.recent
    group by p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation
),
newest as (
    -- from the newest window back
    select p.*,
           row_number() over (partition by p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation
                              order by p.bucket desc) as back,
           coalesce(sum(p.n) over (partition by p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation
                                   order by p.bucket desc
                                   rows between unbounded preceding and 1 preceding), 0) as after_n
    from per p
),
slow as (
    select p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation,
           max(p.bucket) as bucket, min(p.bucket) as onset,
           max(p.arrived) as arrived, sum(p.n) as n, median(p.p50) as value, min(l.level) as baseline,
           (median(p.p50) - min(l.level)) / (1.4826 * min(d.mad) + 1.0) as score
    from newest p
    join level l on l.own = p.own and l.namespace = p.namespace and l.service = p.service
                and l.peer_namespace = p.peer_namespace and l.peer = p.peer and l.operation = p.operation
    join spread d on d.own = p.own and d.namespace = p.namespace and d.service = p.service
                 and d.peer_namespace = p.peer_namespace and d.peer = p.peer and d.operation = p.operation
    cross join params
    where (p.back <= 4 or p.after_n < 9) and l.past_n >= params.least
    group by p.own, p.namespace, p.service, p.peer_namespace, p.peer, p.operation, params.recent
    having count(*) >= 4 and sum(p.n) >= 9 and max(p.arrived) >= params.recent
       and max(p.bucket) < min(p.bucket) + interval '300 seconds'
       and sum(case when p.p50 > 2.0 * l.level and p.p50 > l.level + 8.0 * 1.4826 * d.mad
                     and p.p50 > l.level + 50.0 then p.n else 0 end) >= 0.8 * sum(p.n)
),
told as (
    select s.*, case when s.own then s.namespace else s.peer_namespace end as of_namespace,
           case when s.own then s.service else s.peer end as of_service,
           concat(s.namespace, '/', s.service) as asker
    from slow s
),
askers as (
    select t.own, t.of_namespace, t.of_service, count(distinct t.asker) as askers, min(t.onset) as onset
    from told t
    group by t.own, t.of_namespace, t.of_service
),
ranked as (
    select t.*, a.onset as first_onset,
           row_number() over (partition by t.own, t.of_namespace, t.of_service
                              order by t.n desc, t.asker, t.operation) as place
    from told t
    join askers a on a.own = t.own and a.of_namespace = t.of_namespace and a.of_service = t.of_service
    where t.own or a.askers >= 2
)
select 'latency' as kind, of_namespace as namespace, of_service as service, bucket,
       case when own then onset else first_onset end as onset, arrived as failed,
       (cast(bucket as bigint) - cast(onset as bigint)) / 1000000000 + 5 as span_s,
       5.0 + ((cast(bucket as bigint) - cast(onset as bigint)) / 1000000000.0 + 5.0) / n as within_s,
       value, baseline, score,
       case when own then 1 else 0 end as own
from ranked
where place = 1
order by namespace, service
