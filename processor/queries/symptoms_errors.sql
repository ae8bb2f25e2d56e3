-- Services that fail more than their own past allows: in what they answer (`error_ratio`), and in what
-- their callers see (`call_errors`), for a service that is down has no server spans of its own to fail.
--
-- Per service: the errors of each recent window against the ratio of the calm windows before it. Where a
-- window holds few requests, the 15, 60 and 300 seconds that end with it are judged as well, so that a
-- service with a request every few seconds is seen, too; the shortest that is too bad speaks. Of these
-- three requests in ten must fail: a few that were cut short by their caller are no failure of a service.
-- The bound is binomial (normal approximation with a continuity term), so that three errors in ten
-- requests are judged as the small sample they are.
with seen as (
    select 'error_ratio' as kind, w.namespace, w.service, w.bucket, bool_and(w.calm) as calm,
           sum(w.count) as n, sum(w.errors) as e, min(w.first_error) as first_error
    from windows w
    where w.kind in ('server', 'consumer')
    group by w.namespace, w.service, w.bucket
    union all
    select 'call_errors' as kind, w.peer_namespace as namespace, w.peer as service, w.bucket, bool_and(w.calm) as calm,
           sum(w.count) as n, sum(w.errors) as e, min(w.first_error) as first_error
    from windows w
    where w.kind in ('client', 'producer') and w.peer <> ''
    group by w.peer_namespace, w.peer, w.bucket
),
recent as (
    select s.kind, s.namespace, s.service, s.bucket, s.n
    from seen s cross join params
    where s.bucket >= params.recent and s.e > 0
),
spans as (
    select r.kind, r.namespace, r.service, r.bucket, l.span_s,
           cast(r.bucket as bigint) - cast(s.bucket as bigint) < l.span_s * 1000000000 as inside,
           s.calm, s.n, s.e, s.first_error
    from recent r
    join (values (5), (15), (60), (300)) as l(span_s) on l.span_s = 5 or r.n < 20
    join seen s on s.kind = r.kind and s.namespace = r.namespace and s.service = r.service
               and s.bucket <= r.bucket
),
summed as (
    select s.kind, s.namespace, s.service, s.bucket, s.span_s,
           sum(case when s.inside then s.n else 0 end) as n,
           sum(case when s.inside then s.e else 0 end) as e,
           min(case when s.inside then s.first_error else null end) as first_error,
           sum(case when s.calm and not s.inside then s.n else 0 end) as past_n,
           sum(case when s.calm and not s.inside then s.e else 0 end) as past_e
    from spans s
    group by s.kind, s.namespace, s.service, s.bucket, s.span_s
),
judged as (
    select s.*,
           (cast(s.past_e as double) + 0.5) / (cast(s.past_n as double) + 1.0) as baseline
    from summed s cross join params
    where s.past_n >= params.least
),
bad as (
    select j.*, row_number() over (partition by j.kind, j.namespace, j.service, j.bucket
                                   order by j.span_s) as place
    from judged j cross join params
    where (cast(j.e as double) - 1.0 - j.n * j.baseline) > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
      and (j.span_s = 5 or j.e * 10 >= j.n * 3)
)
select b.kind, b.namespace, b.service, b.bucket, coalesce(b.first_error, b.bucket) as onset, b.n, b.e,
       cast(b.span_s as double) as span_s,
       cast(b.e as double) / cast(b.n as double) as value,
       cast(b.past_e as double) / cast(b.past_n as double) as baseline,
       (cast(b.e as double) - 1.0 - b.n * b.baseline) / sqrt(b.n * b.baseline * (1.0 - b.baseline) + 1.0) as score
from bad b
where b.place = 1
order by b.kind desc, b.namespace, b.service, b.bucket
