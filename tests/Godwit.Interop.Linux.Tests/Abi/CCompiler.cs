using System.Diagnostics;
using System.Text;
using static Godwit.Interop.Linux.Tests.Abi.InteropTypes;

namespace Godwit.Interop.Linux.Tests.Abi;

/// <summary>Writes a C program of static assertions and has the compiler of this machine judge it.</summary>
internal static class CCompiler
{
    internal static string Program(IEnumerable<CConstant> constants, IEnumerable<CStruct> structs)
    {
        CConstant[] checkedConstants = [.. constants.Where(constant => !CHeaders.NotInHeaders.ContainsKey(constant.Id))];
        CStruct[] checkedStructs = [.. structs];
        var text = new StringBuilder("#define _GNU_SOURCE\n#include <stddef.h>\n");
        IEnumerable<string> owners = checkedConstants.Select(constant => constant.Owner).Concat(checkedStructs.Select(item => item.Owner));
        foreach (string header in owners.Distinct(StringComparer.Ordinal)
            .SelectMany(owner => CHeaders.ByType[owner]).Distinct(StringComparer.Ordinal))
            text.Append($"#include <{header}>\n");
        foreach (CConstant constant in checkedConstants)
        {
            // A C constant may be int where ours is uint or the other way round: the bits count.
            bool wide = constant.Value < int.MinValue || constant.Value > uint.MaxValue;
            ulong bits = unchecked(wide ? (ulong)constant.Value : (uint)constant.Value);
            text.Append($"_Static_assert((unsigned {(wide ? "long long" : "int")})({constant.Name}) == 0x{bits:x}ULL, \"{constant.Id}\");\n");
        }

        foreach (CStruct item in checkedStructs)
        {
            text.Append($"_Static_assert(sizeof(struct {item.Tag}) == {item.Size}, \"sizeof {item.Name}\");\n");
            foreach (CField field in item.Fields)
            {
                text.Append($"_Static_assert(offsetof(struct {item.Tag}, {field.Name}) == {field.Offset}, "
                    + $"\"offset of {item.Name}.{field.Name}\");\n");
                text.Append($"_Static_assert(sizeof(((struct {item.Tag} *)0)->{field.Name}) == {field.Size}, "
                    + $"\"sizeof {item.Name}.{field.Name}\");\n");
            }
        }

        return text.ToString();
    }

    /// <summary>
    /// Compiles, with the headers of <paramref name="include"/> before the system's; null when it is accepted, else what the compiler says.
    /// Skips the test when there is none.
    /// </summary>
    internal static string? Complaints(string program, params string[] include)
    {
        string[] paths = [.. include.SelectMany(directory => new[] { "-I", directory })];
        var start = new ProcessStartInfo("cc", ["-std=gnu11", "-Werror", "-fsyntax-only", .. paths, "-x", "c", "-"])
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        Process? process = null;
        try
        {
            process = Process.Start(start);
        }
        catch (System.ComponentModel.Win32Exception missing)
        {
            Assert.Skip($"No C compiler to check the kernel ABI with: cc: {missing.Message}");
        }

        using (process)
        {
            Task<string> errors = process!.StandardError.ReadToEndAsync();
            process.StandardInput.Write(program);
            process.StandardInput.Close();
            string text = errors.GetAwaiter().GetResult();
            process.WaitForExit();
            return process.ExitCode == 0 ? null : text;
        }
    }
}
