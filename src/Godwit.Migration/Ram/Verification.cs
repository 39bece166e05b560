using System.Runtime.CompilerServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>The destination's half of the page comparison: takes checksums in order, compares each page with its own.</summary>
internal sealed class Verification(GuestRam ram)
{
    private readonly byte[] _own = GC.AllocateUninitializedArray<byte>(StreamFormat.MaxChecksumsPerFrame * PageChecksum.Size);
    private readonly List<PagePlace> _first = [];
    private ulong _compared;
    private ulong _differing;

    /// <summary>The outcome, when all of RAM has been compared.</summary>
    /// <exception cref="MigrationStreamException">Pages are missing.</exception>
    internal VerifyResultMessage Finish(in FrameHeader header)
    {
        if (_compared != ram.PageCount)
            MigrationStreamException.Throw(header, "pages", _compared, $"all {ram.PageCount} must be compared");
        return new VerifyResultMessage(_compared, _differing, _first);
    }

    /// <summary>Compares the pages of a PageChecksums frame, which must be the next ones.</summary>
    internal void Compare(in FrameHeader header, ReadOnlySpan<byte> payload, RamReceiver receiver)
    {
        PageRun run = PageRun.Read(header, payload);
        RamBlock block = receiver.Check(header, run, out ulong first);
        if (first != _compared)
            MigrationStreamException.Throw(header, "first page", run.FirstPage, $"the next page to compare is page {_compared} of the machine");
        PageChecksum.ComputeRun(block, run, _own);
        ReadOnlySpan<byte> theirs = payload[PageRun.Size..];
        ReadOnlySpan<byte> own = _own.AsSpan(0, theirs.Length);
        for (int at = own.CommonPrefixLength(theirs); at < own.Length;)
        {
            int page = at / PageChecksum.Size;
            Note(new PagePlace(run.Block, run.FirstPage + (ulong)page));
            at = (page + 1) * PageChecksum.Size;
            at += own[at..].CommonPrefixLength(theirs[at..]);
        }

        _compared += run.Count;
    }

    /// <summary>A result with names, for status.</summary>
    internal static PageVerification Name(GuestRam ram, VerifyResultMessage result) =>
        new((long)result.Compared, (long)result.Differing, [.. result.First.Select(place => Name(ram, place))]);

    /// <summary>The failure for people.</summary>
    internal static string Explain(PageVerification result) =>
        $"{result.PagesDiffering} of {result.PagesCompared} pages differ on the destination: {string.Join(", ", result.FirstDifferences)}"
            + (result.PagesDiffering > result.FirstDifferences.Count ? ", …" : "");

    private static string Name(GuestRam ram, in PagePlace place) =>
        place.Block < ram.Blocks.Count ? PageNames.Of(ram.Blocks[place.Block], place.Page) : $"block {place.Block}, page {place.Page}";

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void Note(in PagePlace place)
    {
        _differing++;
        if (_first.Count < StreamFormat.MaxDifferencesListed)
            _first.Add(place);
    }
}
