-- Services that fail more than their own past allows.
--
-- Per service: the errors of each recent window against the ratio of the calm windows before it.
-- The bound is binomial (normal approximation with a continuity term), so that three errors in ten
-- requests are judged as the small sample they are.
with server as (
    select w.namespace, w.service, w.bucket, w.calm,
           sum(w.count) as n, sum(w.errors) as e, min(w.first_error) as first_error
    from windows w
    where w.kind in ('server', 'consumer')
    group by w.namespace, w.service, w.bucket, w.calm
),
past as (
    select s.*,
           sum(case when s.calm then s.n else 0 end) over earlier as past_n,
           sum(case when s.calm then s.e else 0 end) over earlier as past_e
    from server s
    window earlier as (partition by s.namespace, s.service order by s.bucket
                       rows between unbounded preceding and 1 preceding)
),
judged as (
    select p.*,
           (cast(p.past_e as double) + 0.5) / (cast(p.past_n as double) + 1.0) as baseline
    from past p cross join params
    where p.bucket >= params.recent and p.past_n >= params.least and p.e > 0
)
select j.namespace, j.service, j.bucket, j.n, j.e, j.first_error,
       cast(j.e as double) / cast(j.n as double) as value,
       cast(j.past_e as double) / cast(j.past_n as double) as baseline,
       (cast(j.e as double) - 1.0 - j.n * j.baseline) / sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0) as score
from judged j cross join params
where (cast(j.e as double) - 1.0 - j.n * j.baseline) > params.z * sqrt(j.n * j.baseline * (1.0 - j.baseline) + 1.0)
order by j.namespace, j.service, j.bucket
