using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>A proxy between the two sides that lies or dies; also the proof that the page comparison finds what dirty tracking would lose.</summary>
public sealed class ProxyTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_withheld_page_is_found_by_the_comparison_and_by_nothing_else(bool verify)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        source.Fill(11);
        // Dirtied after the first round has taken it.
        source.Calls.On("log0.Sync", () => source.Ram.Blocks[0].Write(77 * 4096, [0xAA, 0xBB], DirtySource.Vcpu));
        pair.Listen();
        var withhold = new WithholdOnePage(block: 0, page: 77, fromRound: 2);
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], withhold.Forward);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = verify };
        pair.Source.Start(proxy.Address);
        MigrationState end = pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);

        Assert.True(withhold.Withheld);
        if (!verify)
        {
            // The stream was valid in every respect: only an independent comparison can know.
            Assert.True(end == MigrationState.Completed, pair.Source.Status.Error);
            Assert.Equal("main page 77", TestMachine.FirstDifference(source, pair.DestinationMachine));
            return;
        }

        Assert.Equal(MigrationState.Failed, end);
        Assert.Contains("1 of 1024 pages differ on the destination: main+0x4d000", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Equal(1, pair.Source.Status.Verification!.PagesDiffering);
        Assert.Equal(["main+0x4d000"], pair.Source.Status.Verification.FirstDifferences);
        Assert.True(source.Executing);
        pair.WaitForDestination(MigrationState.Failed);
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.Contains("main+0x4d000", pair.Destination.Status.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Many_differing_pages_are_counted_and_the_first_named()
    {
        using var pair = new Pair(new TestMachine(twoBlocks: true), new TestMachine(running: false, twoBlocks: true));
        // Changes that no log sees, between the last sync and the comparison.
        pair.SourceMachine.Calls.On("vcpu0.Save", () =>
        {
            for (ulong page = 10; page < 50; page++)
                Scribble(pair.SourceMachine.Ram.Blocks[1], page);
        });
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Migrate();
        PageVerification result = pair.Source.Status.Verification!;
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Equal((1024, 40), (result.PagesCompared, result.PagesDiffering));
        Assert.Equal(Enumerable.Range(10, 16).Select(page => $"high+0x{page << 12:x}"), result.FirstDifferences);
        Assert.EndsWith(", …", pair.Source.Status.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(FrameType.Description)]
    [InlineData(FrameType.RoundBegin)]
    [InlineData(FrameType.Pages)]
    [InlineData(FrameType.RoundEnd)]
    [InlineData(FrameType.DeviceState)]
    [InlineData(FrameType.MachineStateBegin)]
    [InlineData(FrameType.Prepare)]
    [InlineData(FrameType.VerifyBegin)]
    [InlineData(FrameType.VerifyEnd)]
    public void A_link_that_breaks_before_the_commit_leaves_the_source_running(FrameType at)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.SourceMachine.Fill(5);
        pair.Listen();
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], (type, payload, send) =>
        {
            if (type == at)
                throw new IOException("the link breaks");
            send(type, payload);
        });
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Source.Start(proxy.Address);
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Completed, MigrationState.Failed));
        pair.WaitForDestination(MigrationState.Failed, MigrationState.Setup);
        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.False(pair.DestinationMachine.Executing);
    }

    [Theory]
    [InlineData(false, "the destination reports after the commit: Destination, waiting for the commit")]
    [InlineData(true, "query-status")]
    public void A_commit_that_never_arrives_leaves_neither_side_running_and_says_how_to_decide(bool breakBoth, string says)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Listen();
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], (type, payload, send) =>
        {
            if (type == FrameType.Commit)
                throw new IOException("the link breaks");
            send(type, payload);
        });
        proxy.BreakBoth = breakBoth;
        pair.Source.Start(proxy.Address);
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Completed, MigrationState.Failed));
        // Lost after Prepared: this destination must never run.
        Assert.Equal(MigrationState.Failed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.SourceMachine.PostMigrate);
        Assert.Contains(says, pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Contains("(cont)", pair.Source.Status.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void An_answer_that_never_arrives_leaves_only_the_destination_running()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Listen();
        using var release = new ManualResetEventSlim();
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], (type, payload, send) =>
        {
            send(type, payload);
            if (type == FrameType.Commit)
                throw new IOException("the link breaks");
        });
        // The answer must not slip through before the link is gone: the destination starts when the source has given up.
        pair.Source.StateChanged += state =>
        {
            if (state == MigrationState.Failed)
                release.Set();
        };
        pair.DestinationMachine.Calls.On("StartAfterLoad(True)", () => Assert.True(release.Wait(Pair.Patience)));
        proxy.BreakBoth = true;
        pair.Source.Start(proxy.Address);
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Completed, MigrationState.Failed));
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.SourceMachine.PostMigrate);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.Contains("may be running", pair.Source.Status.Error, StringComparison.Ordinal);
    }

    private static unsafe void Scribble(RamBlock block, ulong page)
    {
        // SAFETY: the page is in the block.
        block.Pointer[(page << 12) + 8]++;
    }

    /// <summary>Takes one page out of every run that holds it, and out of the counts.</summary>
    private sealed class WithholdOnePage(int block, ulong page, uint fromRound)
    {
        private uint _round;
        private ulong _taken;

        public bool Withheld { get; private set; }

        public void Forward(FrameType type, byte[] payload, Action<FrameType, byte[]> send)
        {
            var header = new FrameHeader(type, payload.Length, 0, 0);
            switch (type)
            {
                case FrameType.RoundBegin:
                    _round = RoundBeginMessage.Read(header, payload).Number;
                    _taken = 0;
                    send(type, payload);
                    break;
                case FrameType.Pages when _round >= fromRound && PageRun.Read(header, payload) is var run
                    && run.Block == block && page >= run.FirstPage && page < run.FirstPage + run.Count:
                    Withheld = true;
                    _taken++;
                    Send(run, run with { Count = page - run.FirstPage });
                    Send(run, new PageRun(block, page + 1, run.FirstPage + run.Count - page - 1));
                    break;
                case FrameType.RoundEnd:
                    RoundEndMessage end = RoundEndMessage.Read(header, payload);
                    var rewritten = new System.Buffers.ArrayBufferWriter<byte>();
                    (end with { Pages = end.Pages - _taken }).Write(rewritten);
                    send(type, rewritten.WrittenSpan.ToArray());
                    break;
                default:
                    send(type, payload);
                    break;
            }

            void Send(PageRun run, PageRun part)
            {
                if (part.Count != 0)
                    send(FrameType.Pages, PagesPayload.Part(payload, run, part));
            }
        }
    }
}
