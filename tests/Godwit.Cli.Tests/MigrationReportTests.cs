using System.Text.Json;
using System.Xml;
using System.Xml.Linq;
using FsCheck;
using FsCheck.Fluent;

namespace Godwit.Cli.Tests;

/// <summary>The page that <c>godwit migrate --report</c> leaves.</summary>
public sealed class MigrationReportTests
{
    private const string Rounds =
        """
        "rounds":[{"number":0,"duration-microseconds":900000,"pages":1000,"zero-pages":31768,"bytes":4200000,"dirty-vcpu":3,"dirty-device":2,
        "dirty-vmm":1,"log-reports":1,"remaining-pages":700,"bytes-per-second":4666666,"expected-downtime-microseconds":650000}]
        """;

    [Fact]
    public void The_page_holds_the_figures_the_charts_the_parts_and_the_rounds()
    {
        XElement page = Page(Reply("completed"), Trace(40), "unix:/tmp/mig.sock");

        Assert.Equal(4, page.Descendants("svg").Count());
        Assert.Contains("Migration completed", Text(page, "h1"), StringComparison.Ordinal);
        Assert.Contains("unix:/tmp/mig.sock", page.Value, StringComparison.Ordinal);
        Assert.Equal(["sent", "dirtied by vCPUs", "dirtied by devices", "dirtied by the VMM", "remaining", "expected if it stopped now"], page.Descendants("path").Select(path => path.Value));
        // One rectangle for each part, as wide as its share of 920: 10 and 20 of 30 ms.
        double[] widths = [.. page.Descendants("rect").Select(rect => double.Parse(rect.Attribute("width")!.Value))];
        Assert.Equal([305.67, 612.33], widths);
        Assert.Contains("stop-vcpus", page.Value, StringComparison.Ordinal);
        // What was expected, beside the sum of the parts that it is compared with.
        XElement[] compared = [.. page.Descendants("table").Single(table => table.Value.Contains("measured", StringComparison.Ordinal)).Elements("tr").Skip(1)];
        Assert.Equal([["stop", "5.0 ms", "10.0 ms"], ["load", "40.0 ms", "20.0 ms"], ["downtime", "45.0 ms", "30.0 ms"]], compared.Select(row => row.Elements().Select(cell => cell.Value).ToArray()));
        Assert.Equal("31768", page.Descendants("td").Single(cell => cell.Value == "31768").Value);
    }

    [Fact]
    public void A_line_has_a_point_for_each_sample_and_a_gap_where_nothing_is_known()
    {
        var trace = new MigrationTrace();
        foreach (int i in Enumerable.Range(1, 9))
            trace.Add(View(i * 100, expected: i is 4 or 5 ? null : 1000 / i));
        XElement page = Page(Reply("completed"), trace, "unix:x");

        string sent = page.Descendants("path").First().Attribute("d")!.Value;
        string expected = page.Descendants("path").Last().Attribute("d")!.Value;
        Assert.Equal(9, sent.Count(c => c is 'M' or 'L'));
        Assert.Equal(1, sent.Count(c => c is 'M'));
        Assert.Equal(2, expected.Count(c => c is 'M'));
        Assert.Equal(7, expected.Count(c => c is 'M' or 'L'));
    }

    [Fact]
    public void A_migration_that_failed_at_once_says_why_and_draws_nothing()
    {
        XElement page = Page(Reply("failed", error: "no route to \"host\" <b>"), new MigrationTrace(), "tcp:h:1");

        Assert.Contains("no route to \"host\" <b>", page.Value, StringComparison.Ordinal);
        Assert.Contains("It was over before there was anything to draw.", page.Value, StringComparison.Ordinal);
        Assert.Empty(page.Descendants("path"));
    }

    [Fact]
    public void What_a_monitor_says_cannot_become_markup()
    {
        Prop.ForAll(ArbMap.Default.ArbFor<string?>(), text =>
        {
            string reply = Reply("failed", error: text ?? "<script>alert(1)</script>\u0001\uFFFF");
            XElement page = Page(reply, Trace(3), text ?? "\"><script>");
            Assert.Empty(page.Descendants("script"));
            Assert.Equal(3, page.Descendants("svg").Count());
        }).QuickCheckThrowOnFailure();
    }

    [Fact]
    public void A_trace_keeps_its_bytes_and_its_bound_however_long_it_gets()
    {
        var trace = new MigrationTrace();
        const int Seen = 3 * MigrationTrace.Limit;
        for (int i = 1; i <= Seen; i++)
            trace.Add(View(i * 100, transferred: i * 1000L));

        Assert.InRange(trace.Samples.Count, MigrationTrace.Limit / 4, MigrationTrace.Limit);
        double bytes = 0;
        TimeSpan before = TimeSpan.Zero;
        foreach (TraceSample sample in trace.Samples)
        {
            Assert.True(sample.At > before);
            bytes += sample.Sent * (sample.At - before).TotalSeconds;
            before = sample.At;
        }

        Assert.Equal(before.TotalMilliseconds * 10, bytes, 1.0);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(double.NaN)]
    [InlineData(double.PositiveInfinity)]
    [InlineData(1e-9)]
    [InlineData(0.37)]
    [InlineData(7)]
    [InlineData(1e18)]
    public void An_axis_is_ascending_covers_its_value_and_places_within(double most)
    {
        foreach (Axis axis in new[] { Axis.FromZero(most, 5), Axis.UpTo(most, 10), Axis.Decades([most, 3]) })
        {
            Assert.InRange(axis.Ticks.Count, 1, 32);
            Assert.Equal(axis.Ticks.Order(), axis.Ticks);
            Assert.All([.. axis.Ticks, most, -1, double.NaN], value => Assert.InRange(axis.Place(value), 0, 1));
            Assert.Equal(0, axis.Place(axis.Ticks[0]));
        }

        if (double.IsFinite(most))
            Assert.True(Axis.FromZero(most, 5).Ticks[^1] >= most);
    }

    private static XElement Page(string reply, MigrationTrace trace, string target)
    {
        string html = MigrationReport.Create(JsonDocument.Parse(reply).RootElement, trace, target, DateTimeOffset.UnixEpoch);
        using var reader = XmlReader.Create(new StringReader(html), new XmlReaderSettings { DtdProcessing = DtdProcessing.Ignore });
        XElement page = XElement.Load(reader);
        Assert.DoesNotContain("http", html, StringComparison.Ordinal); // self-contained
        return page;
    }

    private static string Text(XElement page, string element) => page.Descendants(element).First().Value;

    private static MigrationTrace Trace(int samples)
    {
        var trace = new MigrationTrace();
        foreach (int i in Enumerable.Range(1, samples))
            trace.Add(View(i * 100, transferred: i * 1_000_000L, expected: 5000 / i));
        return trace;
    }

    private static MigrationView View(long milliseconds, long transferred = 0, long? expected = 50) => MigrationView.From(JsonDocument.Parse(
        $$$"""
        {"status":"active","total-time":{{{milliseconds}}},{{{(expected is { } e ? $"\"expected-downtime\":{e}," : "")}}}
         "ram":{"total":134217728,"remaining":{{{134217728 - Math.Min(transferred, 134217728)}}},"transferred":{{{transferred}}}},
         "x-godwit":{"downtime-limit":100,"dirty-pages-per-second":{"vcpu":100,"device":50,"vmm":1} } }
        """).RootElement);

    private static string Reply(string status, string? error = null) =>
        $$$"""
        {"status":"{{{status}}}","total-time":4000,{{{(error is null ? "" : $"\"error-desc\":{JsonSerializer.Serialize(error)},")}}}
         "ram":{"total":134217728,"remaining":0,"transferred":1000,"dirty-sync-count":1},
         "x-godwit":{"downtime-limit":100,{{{(error is null ? "\"downtime-microseconds\":{\"stop-vcpus\":10000,\"load\":20000,\"total\":30000},\"expected-downtime-microseconds\":{\"stop\":5000,\"load\":40000,\"total\":45000}," : "")}}}{{{Rounds}}}}}
        """;
}
