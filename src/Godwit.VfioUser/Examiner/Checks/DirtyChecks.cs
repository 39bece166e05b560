using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.VfioUser;

/// <summary>
/// Whether the log tells the truth, for devices that the examiner can drive to write to memory. For others these checks have nothing to
/// look at.
/// </summary>
internal static class DirtyChecks
{
    private const ulong Page = WireLimits.PageSize;
    private const ulong Base = 0x100_0000;
    private const int Pages = 256;

    /// <summary>Largest page of a log with which these checks tell pages apart.</summary>
    private const ulong LargestGranule = 16 * Page;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("dirty.marks", "what the device writes is marked, all of it and nothing else", static e => Run(e, static run =>
        {
            run.StartLog();
            run.Forget();
            run.Write(3);
            run.Write(70);
            run.ExpectMarks(Page, 3, 70);
        })),
        new("dirty.once", "a mark is told once, and again after another write", static e => Run(e, static run =>
        {
            run.StartLog();
            run.Forget();
            run.Write(9);
            run.ExpectMarks(Page, 9);
            run.ExpectMarks(Page);
            run.Write(9);
            run.ExpectMarks(Page, 9);
        })),
        new("dirty.ranges", "writes inside of the logged ranges are marked, writes outside are not", static e => Run(e, static run =>
        {
            LoggingChecks.StartExactly(run.Examination, Base + 8 * Page, 8 * Page);
            run.Forget();
            run.Write(7);
            run.Write(8);
            run.Write(15);
            run.Write(16);
            run.ExpectMarks(Page, 8, 15);
        })),
        new("dirty.page-sizes", "a report in larger pages than the log's marks the page around", static e => Run(e, static run =>
        {
            run.StartLog();
            run.Forget();
            run.Write(5);
            run.Write(30);
            run.ExpectMarks(16 * Page, 0, 1);
        })),
        new("dirty.restart", "a log that is stopped forgets, and the next one begins empty", static e => Run(e, static run =>
        {
            run.StartLog();
            run.Write(4);
            LoggingChecks.Stop(run.Examination);
            run.StartLog();
            run.ExpectMarks(Page);
        })),
        new("dirty.stopped", "a stopped device writes nothing more, and what it wrote before is marked", static e => Run(e, static run =>
        {
            run.Examination.Migration();
            run.StartLog();
            run.Forget();
            run.Write(12);
            run.Begin(13); // may be done or not
            ArcChecks.Set(run.Examination, Stop);
            byte[] marks = run.Marks(Page);
            bool written = run.IsWritten(13);
            Examination.Require((marks[1] & 0x10) != 0, "the write before the stop is not marked");
            Examination.Require(!written || (marks[1] & 0x20) != 0, "a write that was under way was done and is not marked");
            for (int i = 0; i < 100; i++)
                run.Examination.Info();
            Examination.Require(run.IsWritten(13) == written, "it wrote after it had stopped");
        })),
    ];

    private static void Run(Examination e, Action<DirtyRun> body)
    {
        using var run = new DirtyRun(e, Base, Pages);
        body(run);
    }

    /// <summary>A device with memory that it can be made to write to.</summary>
    private sealed unsafe class DirtyRun : IDisposable
    {
        private readonly MemFd _file;
        private readonly MemoryMapping _memory;
        private readonly IExaminerDriver _driver;
        private readonly ulong _base;
        private readonly int _pages;
        private ulong _granule = Page; // of the log

        public DirtyRun(Examination examination, ulong start, int pages)
        {
            Examination = examination;
            examination.NeedsLogging();
            _driver = IExaminerDriver.For(examination) ?? throw Examination.Absent("the examiner has no driver that makes this device write to memory");
            _base = start;
            _pages = pages;
            ulong size = (ulong)pages * Page;
            _file = MemFd.Create("examiner", size);
            _memory = MemoryMapping.MapShared(_file, 0, size, writable: true);
            DmaChecks.Map(examination, start, size, _file);
            // The driver's own queues lie in the last pages.
            _driver.Start(new ExaminerMemory(_memory, start), start + (ulong)(pages - 16) * Page);
        }

        public Examination Examination { get; }

        private int Looked => _pages - 16;

        /// <summary>Starts the log over the memory, and perhaps more.</summary>
        public void StartLog()
        {
            _granule = LoggingChecks.StartAround(Examination, Page, _base, (ulong)_pages * Page);
            if (_granule <= LargestGranule)
                return;
            LoggingChecks.Stop(Examination);
            throw Examination.Absent($"its log has pages of {_granule} bytes; this looks at {Looked} pages of {Page}");
        }

        /// <summary>Has the device write a page and waits until it has.</summary>
        public void Write(int page)
        {
            Begin(page);
            _driver.Await();
            Examination.Require(IsWritten(page), $"the device was told to write page {page} and did not");
        }

        /// <summary>Has the device write a page.</summary>
        public void Begin(int page)
        {
            // SAFETY: the page is inside the mapping, which lives as long as this.
            new Span<byte>(PointerTo(page), (int)Page).Fill(0xA5);
            _driver.Begin(_base + (ulong)page * Page);
        }

        /// <summary>Whether something was written over what <see cref="Begin"/> left.</summary>
        public bool IsWritten(int page) => Volatile.Read(ref *PointerTo(page)) != 0xA5;

        /// <summary>Reads the log away, so that what was marked before does not count.</summary>
        public void Forget() => Marks(Page);

        /// <summary>Reads the marks of the pages that are looked at.</summary>
        public byte[] Marks(ulong pageSize) => LoggingChecks.Report(Examination, _base, (ulong)Looked * Page, pageSize);

        /// <summary>Reads the marks and compares.</summary>
        public void ExpectMarks(ulong pageSize, params int[] pages)
        {
            byte[] marks = Marks(pageSize);
            int[] found = [.. Enumerable.Range(0, marks.Length * 8).Where(i => (marks[i / 8] >> (i % 8) & 1) != 0)];
            // A log with larger pages marks all around.
            int each = (int)Math.Max(_granule / pageSize, 1);
            int[] expected = [.. pages.Select(page => page / each).Distinct().SelectMany(page => Enumerable.Range(page * each, each)).Where(page => page < (int)((ulong)Looked * Page / pageSize))];
            Examination.Require(found.SequenceEqual(expected), $"marked are [{string.Join(", ", found)}] instead of [{string.Join(", ", expected)}]");
        }

        public void Dispose()
        {
            _memory.Dispose();
            _file.Dispose();
        }

        // SAFETY: pages are below the number mapped, in every call above.
        private byte* PointerTo(int page) => _memory.Address + page * (int)Page;
    }
}
