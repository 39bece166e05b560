using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>What the sender reports to while it works; the place for limits, cancelling and progress.</summary>
internal interface ISendPace
{
    /// <summary>Some pages have gone into the stream. May wait; may throw to stop.</summary>
    void PagesSent();

    /// <summary>A piece of the bitmap is done.</summary>
    void PieceDone();
}

/// <summary>
/// Drains the dirty bitmap piece by piece and has what it says sent: over the control connection itself, or, where there are page channels,
/// by whichever of them has nothing to do.
/// </summary>
internal sealed class RamSender(
    GuestRam ram, FrameWriter writer, PageChannels? channels, PageCompression compression, Bandwidth bandwidth, ISendPace pace) : IDisposable
{
    // A drain ends once it has found 16 MiB of pages, or with the block of 64 MiB that it is in: a page is sent soon after its mark was
    // taken, so few are marked again before they are sent.
    private const ulong PagesPerPiece = 4096;

    private readonly DirtyRun[] _runs = channels is null ? new DirtyRun[PageChannels.RunsPerPiece] : [];
    private readonly PageRunSender _own = new(
        ram, writer, channels is null ? compression : PageCompression.None, bandwidth, pace.PagesSent);

    /// <summary>Pages with contents sent since <see cref="BeginRound"/>.</summary>
    internal ulong Pages => channels?.Pages ?? _own.Pages;

    /// <summary>Zero pages sent since then.</summary>
    internal ulong ZeroPages => channels?.ZeroPages ?? _own.ZeroPages;

    /// <summary>Time spent on finding zero pages since then; of several channels', the average.</summary>
    internal TimeSpan ZeroTime => channels?.ZeroTime ?? _own.ZeroTime;

    /// <summary>Resets the counts.</summary>
    internal void BeginRound()
    {
        _own.BeginRound();
        channels?.BeginRound();
    }

    /// <summary>Takes every mark and sends its page.</summary>
    internal void SendDirty(uint round)
    {
        if (channels is null)
        {
            SendBySelf();
            return;
        }

        for (RamPage next = default; next.Index < ram.PageCount;)
        {
            PageChannels.Worker worker = channels.WaitForIdle(pace.PagesSent);
            int count = ram.Dirty.Drain(ref next, PagesPerPiece, worker.Runs);
            channels.Send(worker, count);
            pace.PagesSent();
            if (count > 0)
                pace.PieceDone();
        }

        channels.EndRound(round, pace.PagesSent);
    }

    /// <inheritdoc/>
    public void Dispose() => _own.Dispose();

    private void SendBySelf()
    {
        for (RamPage next = default; next.Index < ram.PageCount;)
        {
            int count = ram.Dirty.Drain(ref next, PagesPerPiece, _runs);
            _own.Send(_runs.AsSpan(0, count));
            if (count > 0)
                pace.PieceDone();
        }

        _own.FlushZeros();
    }
}
