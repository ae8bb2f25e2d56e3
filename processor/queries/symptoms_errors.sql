-- Services that fail more than their own past allows: in what they answer (`error_ratio`), and in what
-- their callers see (`call_errors`), for a service that is down has no server spans of its own to fail.
--
-- Per service: the errors of each recent window against the ratio of the calm windows before it.
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
past as (
    select s.*,
           sum(case when s.calm then s.n else 0 end) over earlier as past_n,
           sum(case when s.calm then s.e else 0 end) over earlier as past_e
    from seen s
    window earlier as (partition by s.kind, s.namespace, s.service order by s.bucket
                       rows between unbounded preceding and 1 preceding)
),
judged as (
    select p.*,
           (cast(p.past_e as double) + 0.5) / (cast(p.past_n as double) + 1.0) as baseline
    from past p cross join params
    where p.bucket >= params.recent and p.past_n >= params.least and p.e > 0
)
select j.kind, j.namespace, j.service, j.bucket, coalesce(j.first_error, j.bucket) as onset, j.n, j.e,
       cast(j.e as double) / cast(j.n as double) as value,
       cast(j.past_e as double) / cast(j.past_n as double) as baseline,
       (cast(j.e as double) - 1.0 - j.n * j.baseline) / sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0) as score
from judged j cross join params
where (cast(j.e as double) - 1.0 - j.n * j.baseline) > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
order by j.kind desc, j.namespace, j.service, j.bucket
